#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/quant_rows.h"

// Few rows of x: a panel goes from memory through registers once for kRows rows of x, its lanes
// being its rows. S and W as in quant_body.h.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kFewCols = 8192;  // whose terms are made once for all panels

template <class S, class W, int kRows>
struct FewRows {
  using I = typename S::I;
  using F = typename S::F;
  using Panel = typename W::Panel;
  using K = KindOf<S, W>;
  using Dot = typename S::template Dot<K::kCodes, 8 / W::kRuns>;

  using Shared = typename W::template Shared<S>;
  using Sums = F[kRows][kParts<S>];  // a local variable of the innermost function: in registers

  XRowOfCodes x[kRows] = {};
  Term terms[kRows][kFewCols / kGroupCols * W::kRuns];

  // Rows from t1 on repeat the last one; their sums are dropped.
  TANDEM_INLINE void StartStretch(const LinearArgs& a, std::int64_t t0, std::int64_t t1,
                                  std::int64_t k0, std::int64_t cols) {
    for (int r = 0; r < kRows; ++r) {
      x[r] = XCodes(a, Min(t0 + r, t1 - 1), k0);
      if constexpr (K::kHasTerms) MakeTerms<K>(x[r], cols / kGroupCols, W::kOffset, terms[r]);
    }
  }

  // Quads q to the end of a run, g being the group's index in the stretch.
  template <int kRow, int kRun, int q>
  TANDEM_INLINE void Quads(const Panel& p, int j, std::int64_t g, Dot* dots) {
    constexpr int kQuad = kRun * (8 / W::kRuns) + q;
    const I codes = W::template Code<S, kRow, kQuad>(p, j);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      dots[r].template Add<q>(codes, S::Quad(x[r].codes + kGroupCols * g + 4 * kQuad));
    }
    if constexpr (q + 1 < 8 / W::kRuns) Quads<kRow, kRun, q + 1>(p, j, g, dots);
  }

  // One row: the high halves stay where they are and count 16 times, which saves their shifts.
  template <int kRow>
  TANDEM_INLINE I HalvesInPlace(const Panel& p, int j, std::int64_t g, I start) {
    Dot low(start);
    Dot high(S::ZeroI());
    const std::int8_t* codes = x[0].codes + kGroupCols * g;
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const I both = S::LoadI(W::Halves(p, j)[v][kRow]);
      low.template Add<0>(S::And(both, S::Byte(0x0F)), S::Quad(codes + 4 * v));
      high.template Add<0>(S::And(both, S::Byte(0xF0)), S::Quad(codes + 4 * v + 16));
    }
    return S::Add(low.Sum(), S::template ShrSigned<4>(high.Sum()));
  }

  template <int kRow, int kRun>
  TANDEM_INLINE void RunSums(const Panel& p, int j, std::int64_t g, I* out) {
    I start[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      start[r] = S::ZeroI();
      if constexpr (K::kStarts) start[r] = S::Set1(terms[r][g * W::kRuns + kRun].start);
    }
    if constexpr (kRows == 1 && W::kHalves && S::kVnni) {
      out[0] = HalvesInPlace<kRow>(p, j, g, start[0]);
    } else {
      Dot dots[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) dots[r] = Dot(start[r]);
      Quads<kRow, kRun, 0>(p, j, g, dots);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) out[r] = dots[r].Sum();
    }
  }

  // sum += x_scale (sums of the runs times their scales) + mins: the one order of all forms.
  template <int kPart, int kOdd>
  TANDEM_INLINE void Group(const Panel& p, int j, Shared& shared, std::int64_t g, Sums& sums) {
    constexpr int kRow = kPart * S::kLanes;
    F scales[W::kRuns], mins[W::kRuns], scaled[kRows];
    W::template Scales<S, kRow, kOdd>(p, j, shared, scales, mins);
    I dots[kRows];
    RunSums<kRow, 0>(p, j, g, dots);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) scaled[r] = S::Mul(S::ToF(dots[r]), scales[0]);
    if constexpr (W::kRuns == 2) {
      RunSums<kRow, 1>(p, j, g, dots);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) scaled[r] = S::Fma(S::ToF(dots[r]), scales[1], scaled[r]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      F& sum = sums[r][kPart];
      sum = S::Fma(scaled[r], S::SetF(x[r].scales[g]), sum);
      if constexpr (W::kMin) {
#pragma GCC unroll 2
        for (int run = 0; run < W::kRuns; ++run) {
          sum = S::Fma(mins[run], S::SetF(terms[r][g * W::kRuns + run].factor), sum);
        }
      }
    }
  }

  template <int kPart>
  TANDEM_INLINE void Unit(const Panel& p, std::int64_t g, Sums& sums) {
    Shared shared = W::template Load<S, kPart * S::kLanes>(p);
#pragma GCC unroll 1
    for (int j = 0; j < W::kGroups; j += 2) {
      Group<kPart, 0>(p, j, shared, g + j, sums);
      if constexpr (W::kGroups > 1) Group<kPart, 1>(p, j + 1, shared, g + j + 1, sums);
    }
    if constexpr (kPart + 1 < kParts<S>) Unit<kPart + 1>(p, g, sums);
  }

  // The hardware's prefetchers stop at the end of every 4 KiB.
  static TANDEM_INLINE void Prefetch(const Panel* p) {
    const char* from = reinterpret_cast<const char*>(p) + S::kAhead;
#pragma GCC unroll 64
    for (std::size_t at = 0; at < sizeof(Panel); at += 64) _mm_prefetch(from + at, _MM_HINT_T0);
  }

  TANDEM_INLINE void Stretch(const Panel* p, std::int64_t cols, Sums& sums) {
    for (std::int64_t g = 0; g < cols / kGroupCols; g += W::kGroups, ++p) {
      Prefetch(p);
      Unit<0>(*p, g, sums);
    }
  }
};

// The panel of row n times the rows [t0, t1), which `rows` has prepared unless they take more than
// one stretch.
template <class S, class W, int kRows>
void FewRowsOfPanel(const LinearArgs& a, std::int64_t n, std::int64_t t0, std::int64_t t1,
                    FewRows<S, W, kRows>& rows) {
  typename FewRows<S, W, kRows>::Sums sums = {};
  for (std::int64_t k0 = 0; k0 < a.K; k0 += kFewCols) {
    const std::int64_t cols = Min(kFewCols, a.K - k0);
    if (a.K > kFewCols) rows.StartStretch(a, t0, t1, k0, cols);
    rows.Stretch(Units<W>(a, n, k0), cols, sums);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts<S>; ++part) {
      const std::int64_t row = n + part * S::kLanes;
      if (t0 + r < t1 && row < a.n1) StoreLanes<S>(a, t0 + r, row, sums[r][part]);
    }
  }
}

template <class S, class W, int kRows>
void FewRowsOf(const LinearArgs& a, std::int64_t t0, std::int64_t t1) {
  FewRows<S, W, kRows> rows;
  if (a.K <= kFewCols) rows.StartStretch(a, t0, t1, 0, a.K);
  for (std::int64_t n = a.n0; n < a.n1; n += kPanelRows) {
    FewRowsOfPanel<S, W, kRows>(a, n, t0, t1, rows);
  }
}

template <class S>
constexpr int kFewNumbers = static_cast<int>(sizeof S::kFewRows / sizeof S::kFewRows[0]);
template <class S>
constexpr int kFewMost = S::kFewRows[kFewNumbers<S> - 1];

// Up to here the panels themselves are read by every tile of rows. Two tiles are better than
// decoding into L1 only where the codes are bytes already, and nothing is decoded twice.
template <class S, class W>
constexpr std::int64_t kFewMaxT = W::kMaxCode == 255 ? 2 * kFewMost<S> : kFewMost<S>;

// By the smallest of the compiled numbers of rows that is enough.
template <class S, class W, int kIndex>
TANDEM_INLINE void FewRowsBy(const LinearArgs& a, std::int64_t t0, std::int64_t t1) {
  if constexpr (kIndex + 1 < kFewNumbers<S>) {
    if (t1 - t0 > S::kFewRows[kIndex]) return FewRowsBy<S, W, kIndex + 1>(a, t0, t1);
  }
  FewRowsOf<S, W, S::kFewRows[kIndex]>(a, t0, t1);
}

// In tiles of rows of x; all of them pass over a few panels, which stay in L2, before the next.
template <class S, class W>
void Few(const LinearArgs& a) {
  constexpr std::int64_t kPanels = 8 * kPanelRows;
  const std::int64_t tiles = (a.T + kFewMost<S> - 1) / kFewMost<S>;
  if (tiles == 1) return FewRowsBy<S, W, 0>(a, 0, a.T);
  LinearArgs some = a;
  for (; some.n0 < a.n1; some.n0 += kPanels) {
    some.n1 = Min(a.n1, some.n0 + kPanels);
    for (std::int64_t i = 0; i < tiles; ++i) {
      FewRowsBy<S, W, 0>(some, Cut(a.T, i, tiles), Cut(a.T, i + 1, tiles));
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
