#pragma once

#include <span>
#include <vector>

#include "cl_kernels/args.h"
#include "runtime/device_side.h"
#include "runtime/weights.h"

namespace tandem {

// A place beyond the first device: its part of a layer passes through the host
// (runtime/expert_device.h).
inline bool IsFurther(Place place) { return place.on_device() && place.index > 0; }

// The experts of one layer that a device holds, as its kernels find them.
struct LayerExperts {
  std::vector<cl_mem> slabs;  // empty: none
  cl::Span table;             // cl::ExpertEntry [E + 1], the last one of the shared expert
  DType gate_up = DType::kBF16;
  DType down = DType::kBF16;
  std::int64_t F = 0;       // of the widest
  std::int64_t F_unit = 0;  // divides each one's
  bool shared = false;      // the shared expert is in the table
};

// Writes the tables of all layers into the device's scratch, once after loading. `weights` and
// `device`, which is `place` of the plan, outlive this.
class DeviceExperts {
 public:
  DeviceExperts(const Weights& weights, DeviceSide& device, Place place);
  const LayerExperts& layer(int i) const { return layers_[static_cast<std::size_t>(i)]; }

  // From here on experts of the host, in layers that have some, may lie in `slab`, too; its number
  // among those of the layer, -1: the layer has none.
  std::vector<cl_int> AddSlab(const Weights& weights, cl_mem slab);
  // Where an expert lies, slab -1: not here. Between steps.
  void SetEntry(int layer, std::size_t expert, const cl::ExpertEntry& entry);

 private:
  void AddLayer(const LayerWeights& w);

  DeviceSide& device_;
  Place place_;
  std::vector<LayerExperts> layers_;
  std::vector<cl::ExpertEntry> entries_;  // of all layers, as in the scratch
};

}  // namespace tandem
