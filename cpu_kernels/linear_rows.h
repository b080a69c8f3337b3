#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"

// Rows of x, w, the scales and y for the bodies of the linear kernels.

namespace tandem::cpu {
namespace {

template <class X>
TANDEM_INLINE const typename X::Bits* XRow(const LinearArgs& a, std::int64_t t) {
  const std::int64_t row = a.x_rows != nullptr ? a.x_rows[t] : t;
  return static_cast<const typename X::Bits*>(a.x) + row * a.x_stride;
}

template <class W>
TANDEM_INLINE const typename W::Bits* WRow(const LinearArgs& a, std::int64_t n) {
  return static_cast<const typename W::Bits*>(a.w) + n * a.K;
}

// The scales of row n, one for every 128 columns.
TANDEM_INLINE const float* ScaleRow(const LinearArgs& a, std::int64_t n) {
  return a.w_scale + (n + a.scale_row0) / kFp8Block * a.scale_stride;
}

// Whether the scale multiplies the sum of each 128 columns, and not each weight.
template <class S, class W>
constexpr bool kBlockSums = W::kScaled && !S::kScalesWeights;

TANDEM_INLINE void StoreY(const LinearArgs& a, std::int64_t t, std::int64_t n, float sum) {
  float& y = a.y[(a.y_rows != nullptr ? a.y_rows[t] : t) * a.y_stride + n];
  y = a.accumulate ? y + sum : sum;
}

}  // namespace
}  // namespace tandem::cpu
