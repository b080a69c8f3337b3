#pragma once

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cpu {

// y[t, i] = w[i] * x[t, i] / sqrt(mean_i(x[t, i]^2) + eps)       t in [0, T), i in [0, D)
// Statistics and product in f32 (mean accumulated in at least f32 with several partial sums);
// w is f32. y may be x. One row may be computed by one call only.
struct RmsNormArgs {
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  const float* w = nullptr;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  std::int64_t D = 0;
  float eps = 0;
};

// y[t, i] = scale(t) * silu(gate[t, i]) * up[t, i],  silu(v) = v / (1 + exp(-v))   i in [0, F)
// y is f32 or bf16 (y_type, round to nearest even); scale(t) = row_scale ? row_scale[t] : 1.
// An ISA's exp must keep the result within 4 ulp of f32 of the reference before the rounding of y.
struct SwigluArgs {
  const float* gate = nullptr;
  std::int64_t gate_stride = 0;
  const float* up = nullptr;
  std::int64_t up_stride = 0;
  const float* row_scale = nullptr;
  void* y = nullptr;
  DType y_type = DType::kF32;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  std::int64_t F = 0;
};

enum class RopeLayout : std::uint8_t {
  kInterleaved,  // pair i is elements (2i, 2i+1): MLA
  kHalf,         // pair i is elements (i, i + d/2): MHA of DeepSeekMoE
};

// In place: rotates `heads` vectors of d elements, head_stride apart, at one position.
//   cos_sin : f32 [d/2][2], cos and sin of position * inv_freq_i, times the attention factor.
// (a, b) -> (a cos - b sin, a sin + b cos)
struct RopeArgs {
  float* x = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t heads = 0;
  std::int64_t d = 0;
  const float* cos_sin = nullptr;
  RopeLayout layout = RopeLayout::kInterleaved;
};

// y[i] = bf16(x[i]), or f16(x[i]) saturated to +-65504; round to nearest even.
struct ConvertArgs {
  const float* x = nullptr;
  std::uint16_t* y = nullptr;
  std::int64_t n = 0;
};

// y[i] = f32(w[i]) for weight rows (embedding rows; w_type f32, bf16 or f16).
struct WidenArgs {
  const void* w = nullptr;
  DType w_type = DType::kF32;
  float* y = nullptr;
  std::int64_t n = 0;
};

// y[i] += x[i]
struct AddArgs {
  const float* x = nullptr;
  float* y = nullptr;
  std::int64_t n = 0;
};

}  // namespace tandem::cpu
