#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"

// The one body of the vectorised transposed products; S and W as in linear_body.h, with
// W::One(p) for one vector. Every y[t, c] is one lane that takes n in rising order.

namespace tandem::cpu {
namespace {

// kRows rows of x by kVecs vectors of columns from c on. kVecs * kLanes divides the FP8 block, so a
// chunk lies in one block of columns.
template <class S, class W, int kRows, int kVecs>
struct ColumnChunk {
  using F = typename S::F;
  F sums[kRows][kVecs];

  TANDEM_INLINE void Clear() {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) sums[r][v] = S::Zero();
    }
  }

  TANDEM_INLINE void AddRow(const LinearTransposedArgs& a, std::int64_t t, std::int64_t n,
                            std::int64_t c, const typename W::Bits* row) {
    F xs[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) xs[r] = S::Set1(a.x[(t + r) * a.x_stride + n]);
    float scale = 1;
    if constexpr (W::kScaled) {
      const std::int64_t scale_row = (a.n0 + n + a.scale_row0) / kFp8Block;
      scale = a.w_scale[scale_row * a.scale_stride + c / kFp8Block] * W::kScaleFactor;
    }
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      F w = W::One(row + v * S::kLanes);
      if constexpr (W::kScaled) w = S::Mul(w, S::Set1(scale));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r][v] = S::Fma(xs[r], w, sums[r][v]);
    }
  }
};

template <class S, class W, int kRows, int kVecs>
void WholeChunk(const LinearTransposedArgs& a, std::int64_t t, std::int64_t c) {
  ColumnChunk<S, W, kRows, kVecs> chunk;
  chunk.Clear();
  const auto* w = static_cast<const typename W::Bits*>(a.w) + a.n0 * a.C + c;
  for (std::int64_t n = 0; n < a.N; ++n) chunk.AddRow(a, t, n, c, w + n * a.C);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      S::Store(a.y + (t + r) * a.y_stride + c + v * S::kLanes, chunk.sums[r][v]);
    }
  }
}

// The last columns, fewer than a vector.
template <class S, class W, int kRows>
void PartChunk(const LinearTransposedArgs& a, std::int64_t t, std::int64_t c) {
  ColumnChunk<S, W, kRows, 1> chunk;
  chunk.Clear();
  const auto* w = static_cast<const typename W::Bits*>(a.w) + a.n0 * a.C + c;
  Padded<typename W::Bits, S::kLanes> part;
  for (std::int64_t n = 0; n < a.N; ++n) {
    part.Fill(w + n * a.C, a.C - c);
    chunk.AddRow(a, t, n, c, part.bits);
  }
  for (int r = 0; r < kRows; ++r) {
    float lanes[S::kLanes];
    S::Store(lanes, chunk.sums[r][0]);
    for (std::int64_t i = c; i < a.C; ++i) a.y[(t + r) * a.y_stride + i] = lanes[i - c];
  }
}

template <class S, class W, int kRows, int kVecs>
void TransposedRows(const LinearTransposedArgs& a, std::int64_t t) {
  constexpr std::int64_t kChunk = std::int64_t{kVecs} * S::kLanes;
  static_assert(kFp8Block % kChunk == 0);
  std::int64_t c = 0;
  for (; c + kChunk <= a.C; c += kChunk) WholeChunk<S, W, kRows, kVecs>(a, t, c);
  for (; c + S::kLanes <= a.C; c += S::kLanes) WholeChunk<S, W, kRows, 1>(a, t, c);
  if (c < a.C) PartChunk<S, W, kRows>(a, t, c);
}

template <class S, class W>
void LinearTransposedOf(const LinearTransposedArgs& a) {
  std::int64_t t = 0;
  for (; t + 4 <= a.T; t += 4) TransposedRows<S, W, 4, S::kTransposedVecs>(a, t);
  for (; t < a.T; ++t) TransposedRows<S, W, 1, 8>(a, t);
}

}  // namespace
}  // namespace tandem::cpu
