#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/linear_rows.h"

// Many rows of x: a tile of w is decoded once into L1 and reused by a block of rows of x. S, X and
// W as in linear_body.h.

namespace tandem::cpu {
namespace {

// On the stack, at AVX-512: w 24 KiB, x 8 KiB, sums 48 KiB. A sum is a whole vector, so loading and
// storing the sums of a tile costs as much L2 bandwidth as x does: a long tile of few columns (512
// x 12) was faster than 256 x 24.
template <class S>
struct Scratch {
  using Element = typename S::Element;
  static constexpr int kSteps = S::kTileK / S::kWidth;
  static constexpr int kGroups = S::kTileCols / S::kMicroCols;
  static constexpr int kBlocks = S::kTileK / kFp8Block;
  alignas(64) Element w[kGroups][kSteps][S::kMicroCols][S::kWidth];
  alignas(64) Element x[S::kMicroRows][S::kTileK];
  alignas(64) float sums[(S::kTileRows + S::kMicroRows - 1) / S::kMicroRows][kGroups][S::kMicroRows]
                        [S::kMicroCols][S::kLanes];
  float scales[kGroups][kBlocks][S::kMicroCols];  // with kBlockSums
};

// Row n's elements [k0, k0 + count) as operands, a vector every kMicroCols vectors from `to` on.
template <class S, class W>
void DecodeColumn(const LinearArgs& a, std::int64_t n, std::int64_t k0, std::int64_t count,
                  typename S::Element* to) {
  const typename W::Bits* row = WRow<W>(a, n) + k0;
  Padded<typename W::Bits, S::kStep> tail;
  for (std::int64_t k = 0; k < count; k += S::kStep) {
    const typename W::Bits* from = row + k;
    if (count - k < S::kStep) {
      tail.Fill(from, count - k);
      from = tail.bits;
    }
    typename S::Operand operand = W::Decode(from);
    if constexpr (W::kScaled && S::kScalesWeights) {
      operand = S::Scale(operand, ScaleRow(a, n)[(k0 + k) / kFp8Block] * W::kScaleFactor);
    }
    S::StoreOperand(to + k * S::kMicroCols, S::kMicroCols * S::kWidth, operand);
  }
}

template <class S, class W>
void DecodeTile(const LinearArgs& a, std::int64_t n0, std::int64_t cols, std::int64_t k0,
                std::int64_t count, Scratch<S>& s) {
  for (std::int64_t c = 0; c < cols; ++c) {
    const std::int64_t group = c / S::kMicroCols;
    const std::int64_t in_group = c % S::kMicroCols;
    DecodeColumn<S, W>(a, n0 + c, k0, count, s.w[group][0][in_group]);
    if constexpr (kBlockSums<S, W>) {
      const float* scales = ScaleRow(a, n0 + c) + k0 / kFp8Block;
      for (std::int64_t b = 0; b * kFp8Block < count; ++b) {
        s.scales[group][b][in_group] = scales[b] * W::kScaleFactor;
      }
    }
  }
}

// Row t's elements [k0, k0 + count) as operands: x itself where it is that already, else a copy.
template <class S, class X>
const typename S::Element* PackX(const LinearArgs& a, std::int64_t t, std::int64_t k0,
                                 std::int64_t count, typename S::Element* copy) {
  const typename X::Bits* row = XRow<X>(a, t) + k0;
  if constexpr (X::kIsOperand) {
    if (count % S::kStep == 0) return row;
  }
  Padded<typename X::Bits, S::kStep> tail;
  for (std::int64_t k = 0; k < count; k += S::kStep) {
    const typename X::Bits* from = row + k;
    if (count - k < S::kStep) {
      tail.Fill(from, count - k);
      from = tail.bits;
    }
    S::StoreOperand(copy + k, S::kWidth, X::Decode(from));
  }
  return copy;
}

// The inner loop: kRows x kMicroCols accumulators in registers over `steps` vectors of k.
template <class S, int kRows>
struct MicroTile {
  using F = typename S::F;
  using V = typename S::V;
  using Columns = typename S::Element[S::kMicroCols][S::kWidth];
  using Sums = float[S::kMicroCols][S::kLanes];
  F acc[kRows][S::kMicroCols];

  TANDEM_INLINE void Multiply(const typename S::Element* const* x, const Columns* w,
                              std::int64_t step0, std::int64_t step1) {
    for (std::int64_t step = step0; step < step1; ++step) {
      V xs[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) xs[r] = S::LoadV(x[r] + step * S::kWidth);
#pragma GCC unroll 16
      for (int c = 0; c < S::kMicroCols; ++c) {
        const V ws = S::LoadV(w[step][c]);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) acc[r][c] = S::DotV(xs[r], ws, acc[r][c]);
      }
    }
  }

  TANDEM_INLINE void Add(const typename S::Element* const* x, const Columns* w, std::int64_t steps,
                         Sums* sums) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < S::kMicroCols; ++c) acc[r][c] = S::Load(sums[r][c]);
    }
    Multiply(x, w, 0, steps);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < S::kMicroCols; ++c) S::Store(sums[r][c], acc[r][c]);
    }
  }

  // Sums of one block of 128 columns, which the scales multiply.
  TANDEM_INLINE void AddBlock(const typename S::Element* const* x, const Columns* w,
                              std::int64_t step0, std::int64_t step1, const float* scales,
                              Sums* sums) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < S::kMicroCols; ++c) acc[r][c] = S::Zero();
    }
    Multiply(x, w, step0, step1);
#pragma GCC unroll 16
    for (int c = 0; c < S::kMicroCols; ++c) {
      const F scale = S::Set1(scales[c]);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        S::Store(sums[r][c], S::Fma(acc[r][c], scale, S::Load(sums[r][c])));
      }
    }
  }
};

template <class S, class W, int kRows>
void Micro(const typename S::Element* const* x, std::int64_t steps, std::int64_t group,
           Scratch<S>& s, float (*sums)[S::kMicroCols][S::kLanes]) {
  MicroTile<S, kRows> tile;
  if constexpr (kBlockSums<S, W>) {
    constexpr std::int64_t kBlockSteps = kFp8Block / S::kWidth;
    for (std::int64_t b = 0; b * kBlockSteps < steps; ++b) {
      tile.AddBlock(x, s.w[group], b * kBlockSteps, Min(steps, (b + 1) * kBlockSteps),
                    s.scales[group][b], sums);
    }
  } else {
    tile.Add(x, s.w[group], steps, sums);
  }
}

template <class S, class W, int kRows>
TANDEM_INLINE void MicroRows(std::int64_t rows, const typename S::Element* const* x,
                             std::int64_t steps, std::int64_t group, Scratch<S>& s,
                             float (*sums)[S::kMicroCols][S::kLanes]) {
  if (rows == kRows) {
    Micro<S, W, kRows>(x, steps, group, s, sums);
  } else if constexpr (kRows > 1) {
    MicroRows<S, W, kRows - 1>(rows, x, steps, group, s, sums);
  }
}

// The tile of w now in scratch, times all rows of the block.
template <class S, class X, class W>
void MultiplyTile(const LinearArgs& a, std::int64_t t0, std::int64_t t1, std::int64_t groups,
                  std::int64_t k0, std::int64_t count, Scratch<S>& s) {
  const std::int64_t steps = (count + S::kStep - 1) / S::kStep * (S::kStep / S::kWidth);
  for (std::int64_t t = t0; t < t1; t += S::kMicroRows) {
    const std::int64_t rows = Min(S::kMicroRows, t1 - t);
    const typename S::Element* x[S::kMicroRows];
    for (std::int64_t r = 0; r < rows; ++r) x[r] = PackX<S, X>(a, t + r, k0, count, s.x[r]);
    for (std::int64_t g = 0; g < groups; ++g) {
      auto* sums = s.sums[(t - t0) / S::kMicroRows][g];
      MicroRows<S, W, S::kMicroRows>(rows, x, steps, g, s, sums);
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
        MultiplyTile<S, X, W>(a, t0, t1, groups, k, count, s);
      }
      StoreSums<S>(a, t0, t1, n, cols, s);
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
