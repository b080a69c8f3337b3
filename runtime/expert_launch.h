#pragma once

#include <cstdint>

#include "cl_kernels/args.h"
#include "model/config.h"
#include "placement/plan.h"
#include "runtime/device_experts.h"
#include "runtime/device_side.h"

namespace tandem {

// The scratch that routed experts take on a device, and the arguments of their kernels in it.
struct ExpertMemory {
  ExpertMemory() = default;
  explicit ExpertMemory(const DeviceSide& device);

  // All but the target. `device`: whose memory this is.
  cl::ExpertsArgs Experts(const Config& config, const Plan& plan, const LayerExperts& experts,
                          std::int64_t T, const DeviceSide& device) const;
  // The lists for them. `table` tells which experts count as being there.
  cl::GroupArgs Group(const Config& config, const LayerExperts& experts, const cl::Span& table,
                      const cl::ExpertsArgs& a) const;

  cl::Span h;         // [T, D]
  cl::Span choice;    // ids [T, K], then weights [T, K]
  cl::Span act;       // [pairs, F]
  cl::Span pair_out;  // [pairs, D]
  cl::Span lists;
  cl::Span work;  // of products of many rows
};

}  // namespace tandem
