#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/quant_many_body.h"
#include "cpu_kernels/quant_rows.h"

// x in f32: decoded codes are turned into f32, [column][row] in L1, and multiplied by a block of
// rows of x. Every sum takes the columns in rising order, one fused multiply-add each. S and W as
// in quant_body.h.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kExactCols = 256;
constexpr std::int64_t kExactBlock = 64;  // rows of x

template <class S>
using ExactValues = float[kExactCols][S::kManyVecs][S::kLanes];

// scale (code - offset) + min: a product is exact in f32, so that fusing it with the addition
// rounds as the definition does.
template <class S, class K, int kByte>
TANDEM_INLINE void WidenBytes(typename S::I codes, std::int32_t offset, typename S::F scale,
                              typename S::F min, int vec, float (*to)[S::kManyVecs][S::kLanes]) {
  const typename S::I code = S::And(S::template Shr<8 * kByte>(codes), S::Set1(255));
  const typename S::F n = S::ToF(S::Sub(code, S::Set1(offset)));
  S::StoreF(to[kByte][vec], K::kMin ? S::Fma(scale, n, min) : S::Mul(scale, n));
  if constexpr (kByte < 3) WidenBytes<S, K, kByte + 1>(codes, offset, scale, min, vec, to);
}

template <class S, class K>
void WidenCodes(const Decoded<S, K>& from, const Stretch& stretch, ExactValues<S>& to) {
  for (std::int64_t i = 0; i < stretch.groups * 8; ++i) {
    const std::int64_t g = i / 8;
    const std::int64_t run = K::kRuns == 2 ? i / 4 % 2 : 0;
    for (int v = 0; v < S::kManyVecs; ++v) {
      const typename S::F scale = S::LoadF(from.scales[g][run][v]);
      const typename S::F min = K::kMin ? S::LoadF(from.mins[g][run][v]) : S::ZeroF();
      WidenBytes<S, K, 0>(S::LoadI(from.codes[g][i % 8][v]), stretch.offset, scale, min, v,
                          to + 4 * i);
    }
  }
}

template <class S, int kRows>
void ExactRowsOf(const LinearArgs& a, std::int64_t t, const Stretch& stretch,
                 const ExactValues<S>& w, KeptSums<S>* kept) {
  const float* x[kRows];
  typename S::F sums[kRows][S::kManyVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t row = a.x_rows != nullptr ? a.x_rows[t + r] : t + r;
    x[r] = static_cast<const float*>(a.x) + row * a.x_stride + stretch.k0;
#pragma GCC unroll 2
    for (int v = 0; v < S::kManyVecs; ++v) {
      sums[r][v] = stretch.k0 == 0 ? S::ZeroF() : S::LoadF(kept[r][v]);
    }
  }
  for (std::int64_t k = 0; k < stretch.groups * kGroupCols; ++k) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < S::kManyVecs; ++v) {
        sums[r][v] = S::Fma(S::LoadF(w[k][v]), S::SetF(x[r][k]), sums[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < S::kManyVecs; ++v) S::StoreF(kept[r][v], sums[r][v]);
  }
}

// All rows [t, t1), kRows at a time while there are as many, then half as many.
template <class S, int kRows>
void ExactRows(const LinearArgs& a, std::int64_t t, std::int64_t t1, const Stretch& stretch,
               const ExactValues<S>& w, KeptSums<S>* sums) {
  for (; t1 - t >= kRows; t += kRows, sums += kRows) {
    ExactRowsOf<S, kRows>(a, t, stretch, w, sums);
  }
  if constexpr (kRows > 1) ExactRows<S, kRows / 2>(a, t, t1, stretch, w, sums);
}

template <class S, class W>
void ExactPanels(const LinearArgs& a, std::int64_t n, std::int64_t t0, std::int64_t t1) {
  Decoded<S, KindOf<S, W>> decoded;
  alignas(64) ExactValues<S> values;
  alignas(64) KeptSums<S> sums[kExactBlock];
  Stretch stretch{0, 0, W::kOffset};
  do {  // once also for no columns, whose sums are 0
    stretch.groups = Min(kExactCols, a.K - stretch.k0) / kGroupCols;
    DecodeStretch<S, W>(a, n, stretch.k0, stretch.groups, decoded);
    WidenCodes<S, KindOf<S, W>>(decoded, stretch, values);
    ExactRows<S, S::kExactRows>(a, t0, t1, stretch, values, sums);
    stretch.k0 += kExactCols;
  } while (stretch.k0 < a.K);
  StoreKept<S>(a, n, t0, t1, sums);
}

template <class S, class W>
void Exact(const LinearArgs& a) {
  for (std::int64_t t = 0; t < a.T; t += kExactBlock) {
    for (std::int64_t n = a.n0; n < a.n1; n += S::kManyVecs * S::kLanes) {
      ExactPanels<S, W>(a, n, t, Min(a.T, t + kExactBlock));
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
