#pragma once

#include "cpu_kernels/body.h"

// The scale of a block of quantised x, computed in the same order by every level so that all give
// the same codes.

namespace tandem::cpu {
namespace {

constexpr int kXBlock = 32;

struct XBlockScale {
  float scale, inverse;
};

// Below 2^-100 a block counts as zero: 127 / largest would overflow. Infinite and NaN largest give
// such a scale, so that they reach the result.
TANDEM_INLINE XBlockScale XBlockScaleOf(float largest) {
  if (largest < 0x1p-100F) return {0, 0};
  return {largest / 127.0F, 127.0F / largest};
}

}  // namespace
}  // namespace tandem::cpu
