#include "cpu_kernels/vector_ops.h"

#include <cmath>

#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

void NormRow(const float* x, const float* w, float* y, std::int64_t n, float eps) {
  double squares = 0;
  for (std::int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  const auto mean = static_cast<float>(squares / static_cast<double>(n));
  const float inverse = 1.0F / std::sqrt(mean + eps);
  for (std::int64_t i = 0; i < n; ++i) y[i] = w[i] * (x[i] * inverse);
}

float Silu(float v) { return v / (1.0F + std::exp(-v)); }

void RotatePair(float& a, float& b, float cos, float sin) {
  const float rotated = a * cos - b * sin;
  b = a * sin + b * cos;
  a = rotated;
}

}  // namespace

void RmsNorm(const RmsNormArgs& args) {
  for (std::int64_t t = 0; t < args.T; ++t) {
    NormRow(args.x + t * args.x_stride, args.w, args.y + t * args.y_stride, args.D, args.eps);
  }
}

void Swiglu(const SwigluArgs& args) {
  for (std::int64_t t = 0; t < args.T; ++t) {
    const float* gate = args.gate + t * args.gate_stride;
    const float* up = args.up + t * args.up_stride;
    const float scale = args.row_scale != nullptr ? args.row_scale[t] : 1.0F;
    for (std::int64_t i = 0; i < args.F; ++i) {
      const float value = scale * (Silu(gate[i]) * up[i]);
      const std::int64_t at = t * args.y_stride + i;
      if (args.y_type == DType::kBF16) {
        static_cast<std::uint16_t*>(args.y)[at] = F32ToBf16(value);
      } else {
        static_cast<float*>(args.y)[at] = value;
      }
    }
  }
}

void Rope(const RopeArgs& args) {
  const std::int64_t half = args.d / 2;
  const bool interleaved = args.layout == RopeLayout::kInterleaved;
  for (std::int64_t h = 0; h < args.heads; ++h) {
    float* x = args.x + h * args.head_stride;
    for (std::int64_t i = 0; i < half; ++i) {
      float& a = interleaved ? x[2 * i] : x[i];
      float& b = interleaved ? x[2 * i + 1] : x[i + half];
      RotatePair(a, b, args.cos_sin[2 * i], args.cos_sin[2 * i + 1]);
    }
  }
}

void ToF16(const ConvertArgs& args) {
  constexpr float kMax = 65504.0F;
  for (std::int64_t i = 0; i < args.n; ++i) {
    const float x = args.x[i];
    args.y[i] = F32ToF16(x > kMax ? kMax : (x < -kMax ? -kMax : x));
  }
}

void ToBf16(const ConvertArgs& args) {
  for (std::int64_t i = 0; i < args.n; ++i) args.y[i] = F32ToBf16(args.x[i]);
}

void Widen(const WidenArgs& args) {
  for (std::int64_t i = 0; i < args.n; ++i) {
    if (args.w_type == DType::kF32) {
      args.y[i] = static_cast<const float*>(args.w)[i];
    } else {
      const std::uint16_t bits = static_cast<const std::uint16_t*>(args.w)[i];
      args.y[i] = args.w_type == DType::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
    }
  }
}

void Add(const AddArgs& args) {
  for (std::int64_t i = 0; i < args.n; ++i) args.y[i] += args.x[i];
}

}  // namespace tandem::cpu::ref
