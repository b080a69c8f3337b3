#pragma once

#include <cstdint>

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// Products of many rows of x on matrix units: x rounded to bf16, weights decoded to bf16 (FP8 and
// everything that bf16 holds exactly; FP8's scales are applied to partial sums in f32), sums in
// f32. The generic form for every device is linear_many and experts_*_many over matmul.cl.

// Floats of LinearArgs::work that T rows of K values need: x in bf16, on whole lines.
constexpr std::int64_t GemmWorkFloats(std::int64_t T, std::int64_t K) {
  return (T * K / 2 + 63) / 64 * 64;
}

// True where this device has a form for these arguments and is faster with it: then LaunchGemm runs
// it. Needs a.bf16 and a.work.
bool GemmTakes(const Programs& programs, const LinearArgs& a);
void LaunchGemm(Programs& programs, const LinearArgs& a);

// The same for the experts: gate and up, down, and the sum. Tiles have ExpertTileRows rows.
bool GemmTakes(const Programs& programs, const ExpertsArgs& a);
void LaunchExpertsGemm(Programs& programs, const ExpertsArgs& a);

}  // namespace tandem::cl
