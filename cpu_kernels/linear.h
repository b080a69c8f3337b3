#pragma once

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cpu {

// y[yr(t), n] (+)= sum_k x[xr(t), k] * w[n, k]      for t in [0, T), n in [n0, n1)
//
//   x : f32 or bf16 (x_type), row stride x_stride elements    w : [.., K] row-major in w_type
//   y : f32, row stride y_stride elements                     xr(t) = x_rows ? x_rows[t] : t
//                                                             yr(t) = y_rows ? y_rows[t] : t
//   w_type f8_e4m3: w[n,k] * w_scale[(n + scale_row0) / 128 * scale_stride + k / 128], f32 scales.
//   w points at row 0 of the shard and n counts from there; scale_row0 is 0 unless the shard's
//   first row is not a multiple of 128. accumulate: add to y, else overwrite. Two t may share a y
//   row only when accumulate is set.
//
// Single-threaded; the pool owns the split over n. Any K, T and n range is legal, with no alignment
// beyond that of the element type; K * T >= 0. All products are summed in f32 (x is never rounded
// here: a caller that may round passes bf16). An FP8 weight is never NaN: loading refuses those.
// The result for a row does not depend on T, n0, n1 or the other rows (batch invariant): every
// (t, n) is summed in one fixed order.
struct LinearArgs {
  const void* x = nullptr;
  DType x_type = DType::kF32;
  std::int64_t x_stride = 0;
  const std::int32_t* x_rows = nullptr;
  const void* w = nullptr;
  const float* w_scale = nullptr;
  std::int64_t scale_stride = 0;
  std::int64_t scale_row0 = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  const std::int32_t* y_rows = nullptr;
  std::int64_t T = 0;
  std::int64_t K = 0;
  std::int64_t n0 = 0;
  std::int64_t n1 = 0;
  bool accumulate = false;
};

// The transposed product, for the absorbed query of MLA (q~ = W_UK^T q, one head at a time):
// y[t, c] = sum_n x[t, n] * w[n0 + n, c]            for t in [0, T), n in [0, N), c in [0, C)
//
//   x : f32, row stride x_stride    w : [.., C] row-major, row stride C    y : f32, stride y_stride
//   FP8 scales as in LinearArgs, with the weight's row n0 + n and column c.
struct LinearTransposedArgs {
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  const void* w = nullptr;
  const float* w_scale = nullptr;
  std::int64_t scale_stride = 0;
  std::int64_t scale_row0 = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  std::int64_t n0 = 0;
  std::int64_t N = 0;
  std::int64_t C = 0;
};

}  // namespace tandem::cpu
