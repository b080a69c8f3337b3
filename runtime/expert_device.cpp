#include "runtime/expert_device.h"

#include <algorithm>

#include "runtime/clock.h"

namespace tandem {

ExpertDevice::ExpertDevice(const Config& config, const Plan& plan, const Weights& weights,
                           HostSide& host, DeviceSide& side, int index)
    : config_(config),
      plan_(plan),
      host_(host),
      side_(side),
      place_(Place::Device(index)),
      memory_(side),
      part_(side.Scratch("device_part")),
      experts_(weights, side, place_) {
  const std::int64_t values = 2 * (config.hidden_size + config.num_experts_per_tok);
  pinned_ = ClPinned(side.device, static_cast<std::size_t>(plan.max_rows * values) * 4);
  for (const LayerWeights& w : weights.layers) {
    const MlpWeights* x = w.experts.empty() ? nullptr : &w.experts[0];
    expert_bytes_.push_back(
        x == nullptr ? 0 : x->gate.info->bytes() + x->up.info->bytes() + x->down.info->bytes());
  }
}

// Whether some row chose an expert that is here; counts what they will do.
bool ExpertDevice::Chosen(int layer, const ChosenRows& rows) {
  const auto i = static_cast<std::size_t>(layer);
  if (experts_.layer(layer).slabs.empty()) return false;
  const std::vector<Place>& places = plan_.layers[i].experts;
  std::int64_t pairs = 0;
  seen_.assign(places.size(), false);
  for (std::int64_t k = 0; k < rows.T * config_.num_experts_per_tok; ++k) {
    const auto expert = static_cast<std::size_t>(rows.ids[k]);
    if (places[expert] != place_) continue;
    ++pairs;
    if (!seen_[expert]) side_.metrics.device_weight_bytes += expert_bytes_[i];
    seen_[expert] = true;
  }
  side_.metrics.expert_rows_device += pairs;
  return pairs > 0;
}

// In one run from pinned memory: h, ids, weights. The last sum was read before this is called
// again, so that nothing here is in use.
void ExpertDevice::Send(const ChosenRows& rows) {
  const std::int64_t D = config_.hidden_size;
  const std::int64_t pairs = rows.T * config_.num_experts_per_tok;
  auto* h = reinterpret_cast<float*>(pinned_.host());
  host_.ForRows(rows.T, [&](std::int64_t t0, std::int64_t t1) {
    std::copy_n(rows.h + t0 * D, (t1 - t0) * D, h + t0 * D);
  });
  auto* ids = reinterpret_cast<std::int32_t*>(h + rows.T * D);
  std::copy_n(rows.ids, pairs, ids);
  std::copy_n(rows.weights, pairs, reinterpret_cast<float*>(ids + pairs));
  const ClDevice& device = side_.device;
  const auto bytes = [](std::int64_t words) { return static_cast<std::size_t>(words) * 4; };
  device.Write(memory_.h.buffer, 0, h, bytes(rows.T * D));
  device.Write(memory_.choice.buffer, 0, ids, bytes(2 * pairs));
  device.Zero(part_.buffer, 0, bytes(rows.T * D));
}

float* ExpertDevice::sum() const {
  const std::int64_t values = config_.hidden_size + 2 * config_.num_experts_per_tok;
  return reinterpret_cast<float*>(pinned_.host()) + T_ * values;
}

// Devices of one kind have one name: the number tells which of them it was.
void ExpertDevice::Lost(const DeviceLostError& error) const {
  Throw<DeviceLostError>("device {}, which runs experts of the plan: {}", side_.device.info().index,
                         error.what());
}

void ExpertDevice::Start(int layer, const ChosenRows& rows) {
  sum_read_.reset();  // of a step that failed
  if (!Chosen(layer, rows)) return;
  T_ = rows.T;
  try {
    Enqueue(layer, rows);
  } catch (const DeviceLostError& error) {
    Lost(error);
  }
}

void ExpertDevice::Enqueue(int layer, const ChosenRows& rows) {
  Send(rows);
  const LayerExperts& experts = experts_.layer(layer);
  cl::ExpertsArgs a = memory_.Experts(config_, plan_, experts, rows.T, side_);
  a.y = part_;
  side_.kernels.Group(memory_.Group(config_, experts, experts.table, a));
  side_.kernels.Experts(a);
  sum_read_ = side_.Read(part_, sum(), static_cast<std::size_t>(rows.T * config_.hidden_size) * 4);
  side_.device.Flush();
}

void ExpertDevice::AddTo(float* y) {
  if (!sum_read_) return;
  const double start = Now();
  try {
    side_.device.Await(sum_read_.get());
  } catch (const DeviceLostError& error) {
    Lost(error);
  }
  sum_read_.reset();
  side_.metrics.device_wait_s += Now() - start;
  const std::int64_t D = config_.hidden_size;
  host_.ForRows(T_, [&](std::int64_t t0, std::int64_t t1) {
    host_.kernels.add({sum() + t0 * D, y + t0 * D, (t1 - t0) * D});
  });
}

}  // namespace tandem
