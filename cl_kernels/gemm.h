#pragma once

#include <cstdint>
#include <string>

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// Products of many rows of x on matrix units: x rounded to bf16, weights decoded to bf16 (FP8 and
// everything that bf16 holds exactly; FP8's scales are applied to partial sums in f32, but through
// wgmma to the weights before they are rounded), sums in f32. The generic form for every device is
// linear_many and experts_*_many over matmul.cl.

// Floats of LinearArgs::work that T rows of K values need: x in bf16, on whole lines.
constexpr std::int64_t GemmWorkFloats(std::int64_t T, std::int64_t K) {
  return (T + 15) / 16 * 16 * ((K + 127) / 128 * 128) / 2;
}

// Pairs of a tile of experts. A tile of up to half as many costs half as much.
inline constexpr std::int64_t kGemmTileRows = 128;
// Fewer rows than this are quicker without matrix units.
inline constexpr std::int64_t kGemmMinRows = 32;

// Whether products with LinearArgs::fp8 round x to e4m3: through wgmma or, from compute capability
// 8.9 on, mma.sync, and in f32 on devices without NVIDIA's matrix units. Those between have none
// for e4m3 and keep x in bf16.
bool RoundsFp8(Programs& programs);

// Builds what products with weights of a type need, with fp8 also as LinearArgs::fp8 has them, so
// that no step compiles. Nothing where the device has no matrix units.
void PrepareGemm(Programs& programs, DType type, bool fp8);

// True where this device has a form for these arguments and is faster with it: then LaunchGemm runs
// it. Needs a.bf16 and a.work, at least kGemmMinRows rows, and a K that is a multiple of 8 for BF16
// and of 16 for the other formats.
bool GemmTakes(const Programs& programs, const LinearArgs& a);
// Where the driver takes the program, too; else it enqueues nothing and gives false.
bool LaunchedGemm(Programs& programs, const LinearArgs& a);
void LaunchGemm(Programs& programs, const LinearArgs& a);
// Its product with a.w over the x that it left in a.work.
void LaunchRoundedGemm(Programs& programs, const LinearArgs& a);
// As LaunchedGemm, but y receives bf16: its offset and y_stride still count f32, two values each.
// Without norm, w2 and accumulate; w.rows is even.
bool LaunchedGemmBf16(Programs& programs, const LinearArgs& a);

// The same for the experts: gate and up, down, and the sum. Tiles have kGemmTileRows rows; D and
// every F are such K. act holds bf16.
bool GemmTakes(const Programs& programs, const ExpertsArgs& a);
bool LaunchedGemm(Programs& programs, const ExpertsArgs& a);
void LaunchExpertsGemm(Programs& programs, const ExpertsArgs& a);
// How it leaves act: 0: rows of F as they are; else rows of whole blocks of 64 columns in the order
// of turned_column (gemm_parts.cl) in blocks of so many.
std::int64_t ExpertsActColumns(Programs& programs, const ExpertsArgs& a);

// The e4m3 nearest to x, times their scales (e4m3.cl), f32 [T, K] at `out`. K % 8 == 0.
void LaunchE4m3Values(Programs& programs, const Span& x, std::int64_t x_stride, std::int64_t T,
                      std::int64_t K, const Span& out);

// x f32 [T, K], rows x_stride apart, to bf16 at work, rows packed. K % 8 == 0.
void LaunchGemmRound(Programs& programs, DType weights, const Span& x, std::int64_t x_stride,
                     std::int64_t T, std::int64_t K, const Span& work);

}  // namespace tandem::cl
