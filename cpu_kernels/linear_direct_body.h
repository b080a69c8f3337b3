#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/linear_rows.h"

// Few rows of x: weights go from memory through registers, kCols rows of w at once for kRows rows
// of x. S, X and W as in linear_body.h.

namespace tandem::cpu {
namespace {

template <class S, class X, class W, int kRows, int kCols>
struct DirectForm {
  using F = typename S::F;
  using Operand = typename S::Operand;
  static constexpr std::int64_t kPerLine = 64 / sizeof(typename W::Bits);
  static constexpr std::int64_t kStride = kPerLine > S::kStep ? kPerLine : S::kStep;

  const typename X::Bits* x[kRows];
  const typename W::Bits* w[kCols];
  const float* scale_rows[kCols];
  std::int64_t ahead;
  float scales[kCols];
  F sums[kRows][kCols];    // with kBlockSums of the block of 128 columns, else of all of K
  F totals[kRows][kCols];  // with kBlockSums: the scaled sums of the blocks before

  // Columns past n1 repeat the last one; their sums are dropped.
  TANDEM_INLINE void Start(const LinearArgs& a, std::int64_t t0, std::int64_t n0, std::int64_t n1) {
    ahead = kCols * a.K;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) x[r] = XRow<X>(a, t0 + r);
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      const std::int64_t n = Min(n0 + c, n1 - 1);
      w[c] = WRow<W>(a, n);
      scale_rows[c] = W::kScaled ? ScaleRow(a, n) : nullptr;
      scales[c] = 1;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r][c] = totals[r][c] = S::Zero();
    }
  }

  TANDEM_INLINE void StartBlock(std::int64_t block) {
    if constexpr (W::kScaled) {
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) scales[c] = scale_rows[c][block] * W::kScaleFactor;
    }
  }

  TANDEM_INLINE Operand Weights(int c, std::int64_t k) const {
    const Operand ws = W::Decode(w[c] + k);
    if constexpr (W::kScaled && S::kScalesWeights) return S::Scale(ws, scales[c]);
    return ws;
  }

  // The next rows of w at the same column: with the work of decoding in between, the CPU looks too
  // few bytes ahead by itself (FP8, one row of x, AVX-512: 6.3 GB/s without, 9.6 with).
  TANDEM_INLINE void Prefetch(std::int64_t k) const {
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < kStride; i += kPerLine) {
        __builtin_prefetch(w[c] + k + ahead + i);  // not behind a function: GCC 12 drops its calls
      }
    }
  }

  // Columns [k, k + kStride), where kStride is a whole number of cache lines of w.
  TANDEM_INLINE void Stride(std::int64_t k) {
    Prefetch(k);
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kStride; i += S::kStep) Step(k + i);
  }

  TANDEM_INLINE void Step(std::int64_t k) {
    Operand xs[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) xs[r] = X::Decode(x[r] + k);
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      const Operand ws = Weights(c, k);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r][c] = S::Dot(xs[r], ws, sums[r][c]);
    }
  }

  TANDEM_INLINE void Tail(std::int64_t k, std::int64_t count) {
    Padded<typename X::Bits, S::kStep> x_tail[kRows];
    Padded<typename W::Bits, S::kStep> w_tail[kCols];
    for (int r = 0; r < kRows; ++r) x_tail[r].Fill(x[r] + k, count);
    for (int c = 0; c < kCols; ++c) w_tail[c].Fill(w[c] + k, count);
    for (int r = 0; r < kRows; ++r) x[r] = x_tail[r].bits;
    for (int c = 0; c < kCols; ++c) w[c] = w_tail[c].bits;
    Step(0);
  }

  TANDEM_INLINE void EndBlock() {
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      const F scale = S::Set1(scales[c]);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        totals[r][c] = S::Fma(sums[r][c], scale, totals[r][c]);
        sums[r][c] = S::Zero();
      }
    }
  }
};

template <class S, class X, class W, int kRows, int kCols>
void DirectTile(const LinearArgs& a, std::int64_t t0, std::int64_t n0, std::int64_t n1) {
  DirectForm<S, X, W, kRows, kCols> form;
  form.Start(a, t0, n0, n1);
  const std::int64_t whole = a.K / S::kStep * S::kStep;
  const std::int64_t span = W::kScaled ? kFp8Block : a.K;
  for (std::int64_t k0 = 0; k0 < a.K; k0 += span) {
    const std::int64_t end = Min(whole, k0 + span);
    form.StartBlock(k0 / kFp8Block);
    std::int64_t k = k0;
    for (; k + form.kStride <= end; k += form.kStride) form.Stride(k);
    for (; k < end; k += S::kStep) form.Step(k);
    if (k0 + span >= a.K && whole < a.K) form.Tail(whole, a.K - whole);
    if constexpr (kBlockSums<S, W>) form.EndBlock();
  }
  const auto& sums = kBlockSums<S, W> ? form.totals : form.sums;
  for (int c = 0; c < kCols && n0 + c < n1; ++c) {
    for (int r = 0; r < kRows; ++r) StoreY(a, t0 + r, n0 + c, S::Sum(sums[r][c]));
  }
}

template <class S, class X, class W, int kRows>
TANDEM_INLINE void DirectRows(const LinearArgs& a, std::int64_t rows, std::int64_t t0,
                              std::int64_t n0, std::int64_t n1) {
  if (rows == kRows) {
    constexpr int kCols = (W::kScaled ? S::kDirectColsScaled : S::kDirectCols)[kRows - 1];
    for (std::int64_t n = n0; n < n1; n += kCols) {
      DirectTile<S, X, W, kRows, kCols>(a, t0, n, n1);
    }
  } else if constexpr (kRows > 1) {
    DirectRows<S, X, W, kRows - 1>(a, rows, t0, n0, n1);
  }
}

// 24 rows of w stay in L2 while all rows of x pass; 24 is a multiple of the usual kCols.
template <class S, class X, class W>
void Direct(const LinearArgs& a) {
  const std::int64_t passes = (a.T + S::kDirectRows - 1) / S::kDirectRows;
  for (std::int64_t n = a.n0; n < a.n1; n += 24) {
    for (std::int64_t p = 0; p < passes; ++p) {
      const std::int64_t t0 = a.T * p / passes;
      DirectRows<S, X, W, S::kDirectRows>(a, a.T * (p + 1) / passes - t0, t0, n, Min(a.n1, n + 24));
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
