#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/quantize_lanes.h"

// MXFP4 has powers of two as scales: the few that can be best are tried.

namespace tandem::quantize {
namespace {

// The magnitudes of e2m1, doubled, in code order; a tie goes to the even code.
int NearestCode(float v) {
  const float a = std::fabs(v);
  int code = 0;
  code += a > 0.25F ? 1 : 0;
  code += a >= 0.75F ? 1 : 0;
  code += a > 1.25F ? 1 : 0;
  code += a >= 1.75F ? 1 : 0;
  code += a > 2.5F ? 1 : 0;
  code += a >= 3.5F ? 1 : 0;
  code += a > 5.0F ? 1 : 0;
  return code | (v < 0 && code > 0 ? 8 : 0);
}

// The error of a value that is scaled to where 6 is the largest.
float ErrorOf(float v) {
  const float a = std::fabs(v);
  float n = a > 0.25F ? 0.5F : 0.0F;
  n = a >= 0.75F ? 1.0F : n;
  n = a > 1.25F ? 1.5F : n;
  n = a >= 1.75F ? 2.0F : n;
  n = a > 2.5F ? 3.0F : n;
  n = a >= 3.5F ? 4.0F : n;
  n = a > 5.0F ? 6.0F : n;
  return a - n;
}

float Power(int e) { return std::ldexp(1.0F, e); }

// One block: x[i] = values[i] 2^-e is in the range of e2m1 for e around that of the largest.
BlockMXFP4 QuantizeBlock(const float* x, const float* weights) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  BlockMXFP4 block = {};
  if (largest == 0) return block;
  const int top = std::ilogb(largest) - 2;  // 4 to 8 units, of which 6 is the largest code
  float scaled[32];                         // by 2^-top, in steps that neither overflow
  for (int i = 0; i < 32; ++i) scaled[i] = std::ldexp(x[i], -top);
  int best = 0;
  float best_error = INFINITY;
  for (int up = -1; up <= 1; ++up) {
    const int e = std::clamp(top + up, -127, 127);
    const float over = Power(top - e);
    const float unit = Power(e - top);
    float error = 0;
    for (int i = 0; i < 32; ++i) {
      const float difference = ErrorOf(scaled[i] * over) * unit;
      error += weights[i] * difference * difference;
    }
    if (error < best_error) best = e, best_error = error;
  }
  block.e = static_cast<std::uint8_t>(best + 127);
  const float over = Power(top - best);
  for (int i = 0; i < 16; ++i) {
    const int low = NearestCode(scaled[i] * over);
    const int high = NearestCode(scaled[i + 16] * over);
    block.q[i] = static_cast<std::uint8_t>(low | high << 4);
  }
  return block;
}

}  // namespace

void QuantizeMxfp4(const Values& values, std::byte* out) {
  for (std::int64_t at = 0; at < values.count; at += 32, out += sizeof(BlockMXFP4)) {
    const std::int64_t column = (values.first + at) % values.cols;
    const BlockMXFP4 block = QuantizeBlock(values.x + at, values.weights + column);
    std::memcpy(out, &block, sizeof(block));
  }
}

}  // namespace tandem::quantize
