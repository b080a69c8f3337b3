#include "runtime/forward.h"

#include <algorithm>

#include "memory/cl_touch.h"
#include "memory/error.h"
#include "placement/model_sizes.h"
#include "placement/scratch.h"
#include "runtime/expert_copy.h"

namespace tandem {

Residual::Residual(std::int64_t width, HostSide& host, DeviceSide* device)
    : width_(width), device_(device), memory_(host.Scratch("x").data()) {
  if (device == nullptr || !device->HasScratch("x")) return;
  span_ = device->Scratch("x");
  // Many rows go over by DMA then; NVIDIA's driver copies them through memory of its own else.
  const std::span<const std::byte> x = std::as_bytes(host.Scratch("x"));
  for (const std::span<const std::byte> pages : PageRanges({{x.data(), x.size(), 0}})) {
    locked_.Lock(device->device, pages.data(), pages.size());
  }
}

float* Residual::host() {
  TANDEM_CHECK(!on_device_);
  return host_memory();
}

const cl::Span& Residual::on_device() const {
  TANDEM_CHECK(on_device_);
  return span_;
}

void Residual::MoveTo(Place place, std::int64_t T) {
  if (place.on_device() == on_device_) return;
  const std::size_t bytes = T * width_ * sizeof(float);
  if (place.on_device()) {
    device_->device.Write(span_.buffer, 0, host_memory(), bytes);
  } else {
    device_->device.BlockingRead(span_.buffer, 0, host_memory(), bytes);
  }
  on_device_ = place.on_device();
}

Forward::Forward(const Config& c, const Plan& p, const Weights& w, HostSide& h_side,
                 std::span<DeviceSide* const> devices)
    : config(c),
      plan(p),
      weights(w),
      host(h_side),
      device(devices.empty() ? nullptr : devices[0]),
      x(c.hidden_size, h_side, device) {
  batch.memory = h_side.Scratch("batch");
  if (h_side.HasScratch("h")) h = h_side.Activation("h", c.hidden_size);
  if (device != nullptr) {
    h_device = device->Scratch("h");
    device_experts.emplace(w, *device, Place::Device(0));
  }
  for (int i = 1; i < static_cast<int>(devices.size()); ++i) {
    further.push_back(std::make_unique<ExpertDevice>(c, p, w, h_side, *devices[i], i));
  }
  const std::size_t bytes = KvLayerBytes(c, p.kv_blocks, p.kv_type);
  const KvBuffers buffers = KvBuffersOf(c, p);
  batch.kv_parts.resize(static_cast<std::size_t>(buffers.count));
  batch.kv_part_blocks = buffers.blocks;
  for (const LayerPlan& layer : p.layers) {
    KvStore& store = kv.emplace_back();
    if (layer.attention.on_device()) {
      const std::string name = fmt::format("KV cache {}", kv.size() - 1);
      for (std::int64_t block = 0; block < p.kv_blocks; block += buffers.blocks) {
        const std::int64_t blocks = std::min(buffers.blocks, p.kv_blocks - block);
        store.device.push_back(
            AllocateTouched(device->device, name, KvLayerBytes(c, blocks, p.kv_type)));
      }
    } else {
      store.host = HostBuffer(bytes);
    }
  }
}

}  // namespace tandem
