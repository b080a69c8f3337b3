#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/quantize_block.h"

// Rows of x to codes. B holds 16 values of a block in vectors: Load, Largest (of the magnitudes'
// bits, so that NaN counts as the largest), Store (codes and their sum).

namespace tandem::cpu {
namespace {

template <class B>
void QuantizeRowsOf(const QuantizeArgs& a) {
  for (std::int64_t t = 0; t < a.T; ++t) {
    for (std::int64_t k = 0; k < a.K; k += kXBlock) {
      const std::int64_t to = t * a.stride + k;
      const B low = B::Load(a.x + t * a.x_stride + k);
      const B high = B::Load(a.x + t * a.x_stride + k + 16);
      const XBlockScale s = XBlockScaleOf(B::Largest(low, high));
      a.scale[to / kXBlock] = s.scale;
      a.sum[to / 16] = low.Store(s.inverse, a.q + to);
      a.sum[to / 16 + 1] = high.Store(s.inverse, a.q + to + 16);
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
