#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"

// The one body of the vectorised linear kernels, compiled by each ISA folder with its own types:
//   S : the vectors: F, Pair, kLanes, the blocking (kDirectRows, kDirectCols, kMicroRows,
//       kMicroCols, kTileK, ...), Load, Store, Fma, Mul, Set1, Zero, Sum
//   X : the elements of x, W : those of w; Decode(p) turns 2 * kLanes of them into a Pair of
//   vectors
// Everything sits in an unnamed namespace, so no symbol leaves the object file.
//
// Batch invariance: every y[t, n] has exactly one vector accumulator, which takes k in rising
// order, kLanes at a time (K padded with zeros to 2 * kLanes), and one fixed tree of additions at
// the end. The forms below differ only in how many accumulators are in flight. An FP8 weight is
// multiplied by its scale and rounded to f32 before it meets x, in all forms.

namespace tandem::cpu {
namespace {

template <class X>
TANDEM_INLINE const typename X::Bits* XRow(const LinearArgs& a, std::int64_t t) {
  const std::int64_t row = a.x_rows != nullptr ? a.x_rows[t] : t;
  return static_cast<const typename X::Bits*>(a.x) + row * a.x_stride;
}

template <class W>
TANDEM_INLINE const typename W::Bits* WRow(const LinearArgs& a, std::int64_t n) {
  return static_cast<const typename W::Bits*>(a.w) + n * a.K;
}

// The scales of row n, one for every 128 columns.
TANDEM_INLINE const float* ScaleRow(const LinearArgs& a, std::int64_t n) {
  return a.w_scale + (n + a.scale_row0) / kFp8Block * a.scale_stride;
}

TANDEM_INLINE void StoreY(const LinearArgs& a, std::int64_t t, std::int64_t n, float sum) {
  float& y = a.y[(a.y_rows != nullptr ? a.y_rows[t] : t) * a.y_stride + n];
  y = a.accumulate ? y + sum : sum;
}

// ---- Few rows: weights go from memory through registers, kCols rows of w at once. -------------
// No software prefetch: it was measured 512 and 1024 bytes ahead and gained nothing.

template <class S, class X, class W, int kRows, int kCols>
struct DirectForm {
  using F = typename S::F;
  using Pair = typename S::Pair;
  static constexpr std::int64_t kStep = 2 * S::kLanes;

  const typename X::Bits* x[kRows];
  const typename W::Bits* w[kCols];
  const float* scale_rows[kCols];
  F scales[kCols];
  F sums[kRows][kCols];

  // Columns past n1 repeat the last one; their sums are dropped.
  TANDEM_INLINE void Start(const LinearArgs& a, std::int64_t t0, std::int64_t n0) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) x[r] = XRow<X>(a, t0 + r);
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      const std::int64_t n = Min(n0 + c, a.n1 - 1);
      w[c] = WRow<W>(a, n);
      scale_rows[c] = W::kScaled ? ScaleRow(a, n) : nullptr;
      scales[c] = S::Zero();
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r][c] = S::Zero();
    }
  }

  TANDEM_INLINE void LoadScales(std::int64_t k) {
    if constexpr (W::kScaled) {
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) {
        scales[c] = S::Set1(scale_rows[c][k / kFp8Block] * W::kScaleFactor);
      }
    }
  }

  TANDEM_INLINE void Step(std::int64_t k) {
    Pair xs[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) xs[r] = X::Decode(x[r] + k);
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      Pair ws = W::Decode(w[c] + k);
      if constexpr (W::kScaled) ws = {S::Mul(ws.low, scales[c]), S::Mul(ws.high, scales[c])};
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        sums[r][c] = S::Fma(xs[r].low, ws.low, sums[r][c]);
        sums[r][c] = S::Fma(xs[r].high, ws.high, sums[r][c]);
      }
    }
  }

  TANDEM_INLINE void Tail(std::int64_t k, std::int64_t count) {
    Padded<typename X::Bits, kStep> x_tail[kRows];
    Padded<typename W::Bits, kStep> w_tail[kCols];
    for (int r = 0; r < kRows; ++r) x_tail[r].Fill(x[r] + k, count);
    for (int c = 0; c < kCols; ++c) w_tail[c].Fill(w[c] + k, count);
    for (int r = 0; r < kRows; ++r) x[r] = x_tail[r].bits;
    for (int c = 0; c < kCols; ++c) w[c] = w_tail[c].bits;
    Step(0);
  }
};

template <class S, class X, class W, int kRows, int kCols>
void DirectTile(const LinearArgs& a, std::int64_t t0, std::int64_t n0) {
  DirectForm<S, X, W, kRows, kCols> form;
  form.Start(a, t0, n0);
  const std::int64_t whole = a.K / form.kStep * form.kStep;
  const std::int64_t span = W::kScaled ? kFp8Block : a.K;
  for (std::int64_t k0 = 0; k0 < a.K; k0 += span) {
    form.LoadScales(k0);
    const std::int64_t end = Min(whole, k0 + span);
    for (std::int64_t k = k0; k < end; k += form.kStep) form.Step(k);
  }
  if (whole < a.K) form.Tail(whole, a.K - whole);
  for (int c = 0; c < kCols && n0 + c < a.n1; ++c) {
    for (int r = 0; r < kRows; ++r) StoreY(a, t0 + r, n0 + c, S::Sum(form.sums[r][c]));
  }
}

template <class S, class X, class W, int kRows, int kCols>
void Direct(const LinearArgs& a) {
  for (std::int64_t n = a.n0; n < a.n1; n += kCols) DirectTile<S, X, W, kRows, kCols>(a, 0, n);
}

// ---- Many rows: a tile of w is decoded once into L1 and reused by a block of x rows. -----------

// On the stack, at AVX-512: w 24 KiB, x 4 KiB, sums 192 KiB.
template <class S>
struct Scratch {
  static constexpr int kSteps = S::kTileK / S::kLanes;
  static constexpr int kGroups = S::kTileCols / S::kMicroCols;
  alignas(64) float w[kGroups][kSteps][S::kMicroCols][S::kLanes];
  alignas(64) float x[S::kMicroRows][S::kTileK];
  alignas(64) float sums[S::kTileRows / S::kMicroRows + 1][kGroups][S::kMicroRows][S::kMicroCols]
                        [S::kLanes];
};

// Row n's elements [k0, k0 + count) as f32 into column (group, c) of the tile.
template <class S, class W>
void DecodeColumn(const LinearArgs& a, std::int64_t n, std::int64_t k0, std::int64_t count,
                  float (*column)[S::kMicroCols][S::kLanes]) {
  constexpr std::int64_t kStep = 2 * S::kLanes;
  const typename W::Bits* row = WRow<W>(a, n) + k0;
  Padded<typename W::Bits, kStep> tail;
  for (std::int64_t k = 0; k < count; k += kStep) {
    const typename W::Bits* from = row + k;
    if (count - k < kStep) {
      tail.Fill(from, count - k);
      from = tail.bits;
    }
    typename S::Pair pair = W::Decode(from);
    if constexpr (W::kScaled) {
      const typename S::F scale = S::Set1(ScaleRow(a, n)[(k0 + k) / kFp8Block] * W::kScaleFactor);
      pair = {S::Mul(pair.low, scale), S::Mul(pair.high, scale)};
    }
    S::Store(column[k / S::kLanes][0], pair.low);
    S::Store(column[k / S::kLanes + 1][0], pair.high);
  }
}

template <class S, class W>
void DecodeTile(const LinearArgs& a, std::int64_t n0, std::int64_t cols, std::int64_t k0,
                std::int64_t count, Scratch<S>& s) {
  for (std::int64_t c = 0; c < cols; ++c) {
    auto* group = s.w[c / S::kMicroCols];
    const std::int64_t in_group = c % S::kMicroCols;
    DecodeColumn<S, W>(a, n0 + c, k0, count,
                       reinterpret_cast<float(*)[S::kMicroCols][S::kLanes]>(group[0][in_group]));
  }
}

// Row t's elements [k0, k0 + count) as f32: x itself where it is f32 and whole, else a copy.
template <class S, class X>
const float* PackX(const LinearArgs& a, std::int64_t t, std::int64_t k0, std::int64_t count,
                   float* copy) {
  constexpr std::int64_t kStep = 2 * S::kLanes;
  const typename X::Bits* row = XRow<X>(a, t) + k0;
  if constexpr (X::kIsF32) {
    if (count % kStep == 0) return row;
  }
  Padded<typename X::Bits, kStep> tail;
  for (std::int64_t k = 0; k < count; k += kStep) {
    const typename X::Bits* from = row + k;
    if (count - k < kStep) {
      tail.Fill(from, count - k);
      from = tail.bits;
    }
    const typename S::Pair pair = X::Decode(from);
    S::Store(copy + k, pair.low);
    S::Store(copy + k + S::kLanes, pair.high);
  }
  return copy;
}

// The inner loop: kRows x kMicroCols accumulators in registers over `steps` vectors of k.
template <class S, int kRows>
void Micro(const float* const* x, const float (*w)[S::kMicroCols][S::kLanes], std::int64_t steps,
           float (*sums)[S::kMicroCols][S::kLanes]) {
  using F = typename S::F;
  F acc[kRows][S::kMicroCols];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < S::kMicroCols; ++c) acc[r][c] = S::Load(sums[r][c]);
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    F xs[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) xs[r] = S::Load(x[r] + step * S::kLanes);
#pragma GCC unroll 16
    for (int c = 0; c < S::kMicroCols; ++c) {
      const F ws = S::Load(w[step][c]);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) acc[r][c] = S::Fma(xs[r], ws, acc[r][c]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < S::kMicroCols; ++c) S::Store(sums[r][c], acc[r][c]);
  }
}

template <class S, int kRows>
TANDEM_INLINE void MicroRows(std::int64_t rows, const float* const* x,
                             const float (*w)[S::kMicroCols][S::kLanes], std::int64_t steps,
                             float (*sums)[S::kMicroCols][S::kLanes]) {
  if (rows == kRows) {
    Micro<S, kRows>(x, w, steps, sums);
  } else if constexpr (kRows > 1) {
    MicroRows<S, kRows - 1>(rows, x, w, steps, sums);
  }
}

// The tile of w now in scratch, times all rows of the block.
template <class S, class X>
void MultiplyTile(const LinearArgs& a, std::int64_t t0, std::int64_t t1, std::int64_t groups,
                  std::int64_t k0, std::int64_t count, Scratch<S>& s) {
  const std::int64_t steps = (count + 2 * S::kLanes - 1) / (2 * S::kLanes) * 2;
  for (std::int64_t t = t0; t < t1; t += S::kMicroRows) {
    const std::int64_t rows = Min(S::kMicroRows, t1 - t);
    const float* x[S::kMicroRows];
    for (std::int64_t r = 0; r < rows; ++r) x[r] = PackX<S, X>(a, t + r, k0, count, s.x[r]);
    for (std::int64_t g = 0; g < groups; ++g) {
      MicroRows<S, S::kMicroRows>(rows, x, s.w[g], steps, s.sums[(t - t0) / S::kMicroRows][g]);
    }
  }
}

template <class S>
void StoreSums(const LinearArgs& a, std::int64_t t0, std::int64_t t1, std::int64_t n0,
               std::int64_t cols, const Scratch<S>& s) {
  for (std::int64_t t = t0; t < t1; ++t) {
    const auto* block = s.sums[(t - t0) / S::kMicroRows];
    const std::int64_t r = (t - t0) % S::kMicroRows;
    for (std::int64_t c = 0; c < cols; ++c) {
      const float* sum = block[c / S::kMicroCols][r][c % S::kMicroCols];
      StoreY(a, t, n0 + c, S::Sum(S::Load(sum)));
    }
  }
}

template <class S>
void ClearSums(std::int64_t rows, std::int64_t groups, Scratch<S>& s) {
  for (std::int64_t block = 0; block * S::kMicroRows < rows; ++block) {
    for (std::int64_t g = 0; g < groups; ++g) {
      float* sums = &s.sums[block][g][0][0][0];
      constexpr std::int64_t kCount = std::int64_t{S::kMicroRows} * S::kMicroCols;
      for (std::int64_t i = 0; i < kCount; ++i) S::Store(sums + i * S::kLanes, S::Zero());
    }
  }
}

template <class S, class X, class W>
void Tiled(const LinearArgs& a) {
  Scratch<S> s;
  for (std::int64_t t0 = 0; t0 < a.T; t0 += S::kTileRows) {
    const std::int64_t t1 = Min(a.T, t0 + S::kTileRows);
    for (std::int64_t n = a.n0; n < a.n1; n += S::kTileCols) {
      const std::int64_t cols = Min(S::kTileCols, a.n1 - n);
      const std::int64_t groups = (cols + S::kMicroCols - 1) / S::kMicroCols;
      ClearSums<S>(t1 - t0, groups, s);
      for (std::int64_t k = 0; k < a.K; k += S::kTileK) {
        const std::int64_t count = Min(S::kTileK, a.K - k);
        DecodeTile<S, W>(a, n, cols, k, count, s);
        MultiplyTile<S, X>(a, t0, t1, groups, k, count, s);
      }
      StoreSums<S>(a, t0, t1, n, cols, s);
    }
  }
}

template <class S, class X, class W>
void LinearOf(const LinearArgs& a) {
  if (a.T <= 0 || a.n1 <= a.n0) return;
  switch (a.T) {
    case 1:
      return Direct<S, X, W, 1, S::kDirectCols[0]>(a);
    case 2:
      return Direct<S, X, W, 2, S::kDirectCols[1]>(a);
    case 3:
      return Direct<S, X, W, 3, S::kDirectCols[2]>(a);
    case 4:
      return Direct<S, X, W, 4, S::kDirectCols[3]>(a);
    default:
      return Tiled<S, X, W>(a);
  }
}

}  // namespace
}  // namespace tandem::cpu
