#include "model/quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "memory/error.h"
#include "model/quantize_lanes.h"

namespace tandem {
namespace quantize {

bool HasAvx2() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
#else
  return false;
#endif
}

std::uint16_t ScaleBits(float d) { return F32ToF16(Clamp(d, -65504.0F, 65504.0F)); }

float RoundScale(float d) { return F16ToF32(ScaleBits(d)); }

float RoundBlockScale(float d) {
  constexpr float kSmallest = 5.9604645e-08F;  // 2^-24
  const float rounded = RoundScale(d);
  return rounded == 0 && d != 0 ? std::copysign(kSmallest, d) : rounded;
}

}  // namespace quantize

namespace {

// Weights of the columns with a mean of one. None is zero: a run of zeros must have a best scale.
std::vector<float> WeightsOf(const float* importance, std::int64_t cols) {
  std::vector<float> weights(static_cast<std::size_t>(cols), 1.0F);
  if (importance == nullptr) return weights;
  double sum = 0;
  for (std::int64_t c = 0; c < cols; ++c) sum += importance[c];
  if (!(sum > 0)) return weights;
  const double over_mean = static_cast<double>(cols) / sum;
  for (std::int64_t c = 0; c < cols; ++c) {
    weights[c] = static_cast<float>(std::max(1e-6, importance[c] * over_mean));
  }
  return weights;
}

}  // namespace

void QuantizeRows(DType type, const float* x, std::int64_t rows, std::int64_t cols,
                  const float* importance, std::byte* out) {
  TANDEM_CHECK(IsBlockFormat(type) && cols % BlockElements(type) == 0);
  const std::vector<float> weights = WeightsOf(importance, cols);
  const quantize::Values values = {
      x, weights.data(), cols,
      0, rows * cols,    std::ranges::any_of(weights, [](float w) { return w != 1; })};
  // clang-format off
  switch (type) {
    case DType::kQ8_0: case DType::kQ4_0: case DType::kQ5_0: case DType::kIQ4_NL:
      return quantize::QuantizeScale(type, values, out);
    case DType::kQ4_1: case DType::kQ5_1:
      return quantize::QuantizePair(type, values, out);
    case DType::kMXFP4:
      return quantize::QuantizeMxfp4(values, out);
    case DType::kQ3_K: case DType::kQ6_K: case DType::kIQ4_XS:
      return quantize::QuantizeKScale(type, values, out);
    default:
      return quantize::QuantizeKPair(type, values, out);
  }
  // clang-format on
}

DType FittingFormat(DType type, std::int64_t cols) {
  if (cols % BlockElements(type) == 0) return type;
  if (cols % 32 != 0) return DType::kF16;
  switch (type) {
    case DType::kQ4_K:
      return DType::kQ5_0;
    case DType::kQ5_K:
      return DType::kQ5_1;
    case DType::kQ6_K:
      return DType::kQ8_0;
    default:
      return DType::kIQ4_NL;
  }
}

}  // namespace tandem
