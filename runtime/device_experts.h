#pragma once

#include <span>
#include <vector>

#include "cl_kernels/args.h"
#include "runtime/device_side.h"
#include "runtime/weights.h"

namespace tandem {

// The experts of one layer that a device holds, as its kernels find them.
struct LayerExperts {
  std::vector<cl_mem> slabs;  // empty: none
  cl::Span table;             // cl::ExpertEntry [E + 1], the last one of the shared expert
  DType gate_up = DType::kBF16;
  DType down = DType::kBF16;
  std::int64_t F = 0;   // of the widest
  bool shared = false;  // the shared expert is in the table
};

// Writes the tables of all layers into the device's scratch, once after loading. `weights` and
// `device` outlive this.
class DeviceExperts {
 public:
  DeviceExperts(const Weights& weights, DeviceSide& device);
  const LayerExperts& layer(int i) const { return layers_[static_cast<std::size_t>(i)]; }

 private:
  void AddLayer(const LayerWeights& w);

  std::vector<LayerExperts> layers_;
  std::vector<cl::ExpertEntry> entries_;  // of all layers, as in the scratch
};

}  // namespace tandem
