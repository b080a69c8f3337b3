#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "memory/blocks.h"

// The loops that take the time are compiled twice. The results are the same, since nothing is
// summed across lanes and no product and sum are fused (-ffp-contract=off in CMakeLists.txt).
#define TANDEM_LANES_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__)
#define TANDEM_LANES_AVX2 [[gnu::target("avx2")]]
#else
#define TANDEM_LANES_AVX2
#endif

// The quantisers search the scales of 32 runs of values at a time, one run a lane: every loop over
// lanes is without branches or sums across lanes, so that compilers vectorise it at any width and
// the result does not depend on that width. A run is what shares one scale: a block of 32, or an
// eighth or sixteenth of a block of 256. For sources in model/ only.

namespace tandem::quantize {

inline constexpr int kLanes = 32;
struct alignas(64) Lanes {
  float v[kLanes];
};

// 32 runs of N values, transposed, with the weights of their squared errors.
template <int N>
struct Runs {
  Lanes x[N];
  Lanes w[N];
  Lanes total;  // of the weights
};

// Whole blocks that lie one after another, and the weights of their columns.
struct Values {
  const float* x;
  const float* weights;  // of the columns of a row
  std::int64_t cols;
  std::int64_t first;  // of these values, counted from the start of a row
  std::int64_t count;
  bool weighted;  // whether the weights differ
};

inline Lanes Constant(float value) {
  Lanes lanes;
  for (float& v : lanes.v) v = value;
  return lanes;
}
inline Lanes Infinite() { return Constant(std::numeric_limits<float>::infinity()); }

// No format with f16 scales reaches so far, and squares of it do not overflow.
inline constexpr float kLargest = 1e12F;

TANDEM_LANES_INLINE float Clamp(float v, float low, float high) {
  const float raised = v > low ? v : low;
  return raised < high ? raised : high;
}

// To the nearest whole number, for |v| < 2^22: the sum has no place for a fraction.
TANDEM_LANES_INLINE float Round(float v) {
  constexpr float kShift = 12582912.0F;
  return (v + kShift) - kShift;
}

TANDEM_LANES_INLINE float RoundIn(float v, float low, float high) {
  return Round(Clamp(v, low, high));
}

// 0 for a scale that is too small for f16, whose inverse might be infinite.
TANDEM_LANES_INLINE float Inverse(float d) { return d > 1e-10F || d < -1e-10F ? 1 / d : 0.0F; }

// The first kLanes * N values that are left; lanes without values are zero.
template <int N>
void LoadRuns(const Values& v, Runs<N>& runs) {
  for (int i = 0; i < N; ++i) runs.x[i] = {}, runs.w[i] = {};
  runs.total = {};
  const auto lanes = static_cast<int>(v.count < kLanes * N ? v.count / N : kLanes);
  for (int l = 0; l < lanes; ++l) {
    const std::int64_t at = std::int64_t{l} * N;
    const float* weights = v.weights + (v.first + at) % v.cols;
    for (int i = 0; i < N; ++i) {
      runs.x[i].v[l] = Clamp(v.x[at + i], -kLargest, kLargest);
      runs.w[i].v[l] = weights[i];
    }
  }
  for (int i = 0; i < N; ++i) {
    for (int l = 0; l < kLanes; ++l) runs.total.v[l] += runs.w[i].v[l];
  }
}

// Whether this CPU runs what TANDEM_LANES_AVX2 marks.
bool HasAvx2();

// The f16 that stands for a scale, kept finite, and its value.
std::uint16_t ScaleBits(float d);
float RoundScale(float d);
// The same for a scale that whole sub-scales multiply, which must not vanish.
float RoundBlockScale(float d);

// The quantisers, one file for each way to search. `out` takes the blocks of all values.
void QuantizeScale(DType type, const Values& values, std::byte* out);   // 32 values, d
void QuantizePair(DType type, const Values& values, std::byte* out);    // 32 values, d and m
void QuantizeMxfp4(const Values& values, std::byte* out);               // 32 values, 2^e
void QuantizeKScale(DType type, const Values& values, std::byte* out);  // 256 values, d sc
void QuantizeKPair(DType type, const Values& values, std::byte* out);   // 256 values, d sc, dmin m

}  // namespace tandem::quantize
