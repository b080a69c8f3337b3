#pragma once

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cpu {

// y[yr(t), n] (+)= sum_k x[xr(t), k] * w[n, k]      for t in [0, T), n in [n0, n1)
//
//   x : f32, bf16 or quantised (x_type), row stride x_stride elements
//   w : [.., K] in w_type: row-major, or for block formats in panels (cpu_kernels/panel.h), where
//       n0 is a multiple of 16 and w points at the panel of row 0
//   y : f32, row stride y_stride elements                     xr(t) = x_rows ? x_rows[t] : t
//                                                             yr(t) = y_rows ? y_rows[t] : t
//   Quantised x (x_type i8, made by quantize_rows; block formats only): x[k] = x_scale[k / 32] *
//   code[k], codes in [-127, 127]; x_sum holds the sum of every 16 codes. The rows of x_scale and
//   x_sum are x_stride / 32 and x_stride / 16 apart; x_stride is a multiple of 32.
//   w_type f8_e4m3: w[n,k] * w_scale[(n + scale_row0) / 128 * scale_stride + k / 128], f32 scales.
//   w points at row 0 of the shard and n counts from there; scale_row0 is 0 unless the shard's
//   first row is not a multiple of 128. accumulate: add to y, else overwrite. Two t may share a y
//   row only when accumulate is set.
//
// Single-threaded; the pool owns the split over n. Any K, T and n range is legal, with no alignment
// beyond that of the element type; K * T >= 0, K in whole blocks. With f32 x all products are
// summed in f32 and x is never rounded: a caller that may round passes bf16 or quantised rows. With
// quantised x the products of a block are exact integers; blocks are summed in f32. An FP8 weight
// is never NaN: loading refuses those.
// The result for a row does not depend on T, n0, n1 or the other rows (batch invariant): every
// (t, n) is summed in one fixed order. It does depend on which kernel of the table is called.
struct LinearArgs {
  const void* x = nullptr;
  DType x_type = DType::kF32;
  std::int64_t x_stride = 0;
  const float* x_scale = nullptr;       // quantised x only
  const std::int32_t* x_sum = nullptr;  // quantised x only
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

// Rows of x quantised for the block formats: code[k] = round(x[k] / scale), scale = max |x| / 127
// over the 32 columns of a block (0 where all are 0), sum = the sum of 16 codes. Layout as
// LinearArgs states, with `stride` for x_stride; K is a multiple of 32.
struct QuantizeArgs {
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  std::int8_t* q = nullptr;
  float* scale = nullptr;
  std::int32_t* sum = nullptr;
  std::int64_t stride = 0;
  std::int64_t T = 0;
  std::int64_t K = 0;
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
