#include "runtime/device_experts.h"

#include <algorithm>
#include <numeric>

#include "memory/error.h"

namespace tandem {
namespace {

// The number of a matrix' buffer among the layer's slabs; a new one goes behind them.
cl_int SlabOf(std::vector<cl_mem>& slabs, cl_mem buffer) {
  const auto at = std::ranges::find(slabs, buffer);
  const auto index = static_cast<cl_int>(at - slabs.begin());
  if (at == slabs.end()) slabs.push_back(buffer);
  return index;
}

bool OneBuffer(const MlpWeights& w) {
  const bool parts = w.gate.parts || w.up.parts || w.down.parts;
  return !parts && w.gate.device.buffer == w.up.device.buffer &&
         w.gate.device.buffer == w.down.device.buffer;
}

cl::ExpertEntry EntryOf(const MlpWeights& w, cl_int slab) {
  const cl::Weight &gate = w.gate.device, &up = w.up.device, &down = w.down.device;
  TANDEM_CHECK(OneBuffer(w));
  return {gate.offset, gate.scale_offset, up.offset, up.scale_offset,
          down.offset, down.scale_offset, slab,      static_cast<cl_int>(gate.rows)};
}

// A shared expert in the experts' formats runs beside them in the same launches.
bool JoinsExperts(const MlpWeights& shared, const LayerExperts& experts, Place place) {
  return shared.gate && shared.gate.place == place && !experts.slabs.empty() && OneBuffer(shared) &&
         shared.gate.dtype() == experts.gate_up && shared.up.dtype() == experts.gate_up &&
         shared.down.dtype() == experts.down;
}

}  // namespace

DeviceExperts::DeviceExperts(const Weights& weights, DeviceSide& device, Place place)
    : device_(device), place_(place) {
  for (const LayerWeights& w : weights.layers) AddLayer(w);
  if (!device.HasScratch("expert_table")) return;
  const cl::Span table = device.Scratch("expert_table");
  constexpr auto kWords = static_cast<std::int64_t>(sizeof(cl::ExpertEntry) / sizeof(cl_int));
  std::int64_t at = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].table = {table.buffer, at};
    const std::size_t experts = weights.layers[i].experts.size();
    if (experts > 0) at += static_cast<std::int64_t>(experts + 1) * kWords;
  }
  device.device.BlockingWrite(table.buffer, 0, entries_.data(),
                              entries_.size() * sizeof(cl::ExpertEntry));
}

std::vector<cl_int> DeviceExperts::AddSlab(const Weights& weights, cl_mem slab) {
  std::vector<cl_int> numbers;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const bool some = std::ranges::any_of(
        weights.layers[i].experts, [](const MlpWeights& w) { return !w.gate.place.on_device(); });
    numbers.push_back(some ? SlabOf(layers_[i].slabs, slab) : -1);
  }
  return numbers;
}

void DeviceExperts::SetEntry(int layer, std::size_t expert, const cl::ExpertEntry& entry) {
  const cl::Span& table = layers_[static_cast<std::size_t>(layer)].table;
  const auto first = static_cast<std::size_t>(table.offset) * sizeof(cl_int);
  device_.device.BlockingWrite(table.buffer, first + expert * sizeof entry, &entry, sizeof entry);
}

void DeviceExperts::AddLayer(const LayerWeights& w) {
  LayerExperts& layer = layers_.emplace_back();
  if (w.experts.empty()) return;
  layer.F = w.experts[0].gate.rows();
  layer.F_unit = layer.F;
  layer.gate_up = w.experts[0].gate.dtype();
  layer.down = w.experts[0].down.dtype();
  for (const MlpWeights& expert : w.experts) {
    if (expert.gate.place != place_) {
      entries_.emplace_back();
      continue;
    }
    entries_.push_back(EntryOf(expert, SlabOf(layer.slabs, expert.gate.device.buffer)));
  }
  layer.shared = JoinsExperts(w.shared, layer, place_);
  if (!layer.shared) {
    entries_.emplace_back();
    return;
  }
  layer.F = std::max(layer.F, w.shared.gate.rows());
  layer.F_unit = std::gcd(layer.F_unit, w.shared.gate.rows());
  entries_.push_back(EntryOf(w.shared, SlabOf(layer.slabs, w.shared.gate.device.buffer)));
}

}  // namespace tandem
