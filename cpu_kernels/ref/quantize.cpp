#include <bit>
#include <cmath>

#include "cpu_kernels/linear.h"
#include "cpu_kernels/quantize_block.h"
#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

// Compared as integers, because NaN is then the largest: it ends up in the scale and is not lost.
float LargestMagnitude(const float* x) {
  std::uint32_t largest = 0;
  for (int k = 0; k < kXBlock; ++k) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[k]) & 0x7FFFFFFFU;
    largest = bits > largest ? bits : largest;
  }
  return std::bit_cast<float>(largest);
}

// NaN, as 0 times infinity is, becomes the lowest code, as in the vector kernels.
std::int8_t CodeOf(float x, float inverse) {
  const float scaled = std::nearbyint(x * inverse);
  return static_cast<std::int8_t>(scaled >= -127 ? scaled : -127.0F);
}

void Block(const float* x, std::int8_t* q, float* scale, std::int32_t* sum) {
  const XBlockScale s = XBlockScaleOf(LargestMagnitude(x));
  *scale = s.scale;
  for (int half = 0; half < 2; ++half) {
    sum[half] = 0;
    for (int k = half * 16; k < half * 16 + 16; ++k) {
      q[k] = CodeOf(x[k], s.inverse);
      sum[half] += q[k];
    }
  }
}

}  // namespace

void QuantizeRows(const QuantizeArgs& a) {
  for (std::int64_t t = 0; t < a.T; ++t) {
    for (std::int64_t k = 0; k < a.K; k += kXBlock) {
      const std::int64_t to = t * a.stride + k;
      Block(a.x + t * a.x_stride + k, a.q + to, a.scale + to / kXBlock, a.sum + to / 16);
    }
  }
}

}  // namespace tandem::cpu::ref
