#pragma once

#include <optional>
#include <vector>

#include "model/tensor_list.h"
#include "placement/plan.h"

namespace tandem {

// The formats of one layer's routed experts. A device's kernels take one for every gate and up and
// one for every down: `mixed` where there are more.
struct ExpertFormats {
  std::optional<DType> gate_up, down;
  bool mixed = false;
};
// [layers]; empty entries for dense ones.
std::vector<ExpertFormats> FormatsOfExperts(const TensorList& tensors, std::size_t layers);

// What an expert of the host takes on its way to a device, the largest of the model's.
struct ExpertSizes {
  std::int64_t experts = 0;
  std::uint64_t raw_bytes = 0;     // as it lies on the host, each matrix and its scales aligned
  std::uint64_t device_bytes = 0;  // in the layout of devices
  std::uint64_t bf16_bytes = 0;    // decoded
  bool panels = false;             // some matrices are in the CPU's panels
  bool rows = false;               // some are not
  bool device_formats = true;      // devices take them all, one kind in a layer
};
ExpertSizes SizesOfExperts(const TensorList& tensors, std::size_t layers);

// How the experts would stream to a device: block formats are rounded to bf16 there, which the run
// may not do unless `rounds`; expert_bytes is 0 where they cannot.
StreamPlan StreamOf(const ExpertSizes& sizes, bool rounds);
// All experts in a cache; no slots where a device does not take them.
CachePlan CacheOf(const ExpertSizes& sizes);

}  // namespace tandem
