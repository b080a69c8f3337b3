#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/quant_rows.h"

// Many rows of x: a stretch of a panel, or of two, is decoded once to bytes in L1 and reused by a
// block of rows of x. S and W as in quant_body.h.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kManyCols = 512;   // of a stretch
constexpr std::int64_t kManyBlock = 192;  // rows of x

// One or two panels' stretch, decoded: the same for all formats of a kind.
template <class S, class K>
struct Decoded {
  static constexpr std::int64_t kGroups = kManyCols / kGroupCols;
  alignas(64) std::uint8_t codes[kGroups][8][S::kManyVecs][4 * S::kLanes];
  alignas(64) float scales[kGroups][K::kRuns][S::kManyVecs][S::kLanes];
  alignas(64) float mins[K::kMin ? kGroups : 1][K::kRuns][S::kManyVecs][S::kLanes];
};

// One panel's stretch into the vectors from `vec` on.
template <class S, class W>
struct DecodePanelTo {
  using Panel = typename W::Panel;
  Decoded<S, KindOf<S, W>>& to;
  int vec;

  template <int kRow, int q>
  TANDEM_INLINE void Quads(const Panel& p, int j, std::int64_t g) {
    S::StoreI(to.codes[g][q][vec + kRow / S::kLanes], W::template Code<S, kRow, q>(p, j));
    if constexpr (q + 1 < 8) Quads<kRow, q + 1>(p, j, g);
  }

  template <int kRow, int kOdd>
  TANDEM_INLINE void Group(const Panel& p, int j, typename W::template Shared<S>& shared,
                           std::int64_t g) {
    typename S::F scales[W::kRuns], mins[W::kRuns];
    W::template Scales<S, kRow, kOdd>(p, j, shared, scales, mins);
#pragma GCC unroll 2
    for (int run = 0; run < W::kRuns; ++run) {
      S::StoreF(to.scales[g][run][vec + kRow / S::kLanes], scales[run]);
      if constexpr (W::kMin) S::StoreF(to.mins[g][run][vec + kRow / S::kLanes], mins[run]);
    }
    Quads<kRow, 0>(p, j, g);
  }

  template <int kRow>
  TANDEM_INLINE void Unit(const Panel& p, std::int64_t g) {
    typename W::template Shared<S> shared = W::template Load<S, kRow>(p);
#pragma GCC unroll 1
    for (int j = 0; j < W::kGroups; j += 2) {
      Group<kRow, 0>(p, j, shared, g + j);
      if constexpr (W::kGroups > 1) Group<kRow, 1>(p, j + 1, shared, g + j + 1);
    }
    if constexpr (kRow + S::kLanes < kPanelRows) Unit<kRow + S::kLanes>(p, g);
  }
};

template <class S, class W>
void DecodeStretch(const LinearArgs& a, std::int64_t n, std::int64_t k0, std::int64_t groups,
                   Decoded<S, KindOf<S, W>>& to) {
  for (int vec = 0; vec < S::kManyVecs; vec += kParts<S>) {
    const std::int64_t row = n + vec * S::kLanes;
    if (row >= a.n1) continue;  // what the vectors hold then is never stored
    const typename W::Panel* p = Units<W>(a, row, k0);
    DecodePanelTo<S, W> panel{to, vec};
    for (std::int64_t g = 0; g < groups; g += W::kGroups) panel.template Unit<0>(*p++, g);
  }
}

template <class S, class K>
constexpr int kTileRows = S::kManyRows[K::kRuns - 1];

template <class S>
using KeptSums = float[S::kManyVecs][S::kLanes];

template <class S, class K, int kRows>
struct ManyRowsTile {
  using I = typename S::I;
  using F = typename S::F;
  using Dot = typename S::template Dot<K::kCodes, 8 / K::kRuns>;
  static constexpr int kVecs = S::kManyVecs;
  using Sums = F[kRows][kVecs];  // a local variable of the innermost function: in registers

  const Decoded<S, K>& s;
  XRowOfCodes x[kRows] = {};
  Term terms[kRows][kManyCols / kGroupCols * K::kRuns];

  explicit ManyRowsTile(const Decoded<S, K>& scratch) : s(scratch) {}

  template <int kRun, int q>
  TANDEM_INLINE void Quads(std::int64_t g, Dot (*dots)[kVecs]) {
    constexpr int kQuad = kRun * (8 / K::kRuns) + q;
    I codes[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) codes[v] = S::LoadI(s.codes[g][kQuad][v]);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const I quad = S::Quad(x[r].codes + kGroupCols * g + 4 * kQuad);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) dots[r][v].template Add<q>(codes[v], quad);
    }
    if constexpr (q + 1 < 8 / K::kRuns) Quads<kRun, q + 1>(g, dots);
  }

  template <int kRun>
  TANDEM_INLINE void Run(std::int64_t g, F (*scaled)[kVecs]) {
    Dot dots[kRows][kVecs];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      I start = S::ZeroI();
      if constexpr (K::kStarts) start = S::Set1(terms[r][g * K::kRuns + kRun].start);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) dots[r][v] = Dot(start);
    }
    Quads<kRun, 0>(g, dots);
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      const F scale = S::LoadF(s.scales[g][kRun][v]);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const F dot = S::ToF(dots[r][v].Sum());
        scaled[r][v] = kRun == 0 ? S::Mul(dot, scale) : S::Fma(dot, scale, scaled[r][v]);
      }
    }
  }

  // In the order of FewRows::Group.
  TANDEM_INLINE void Group(std::int64_t g, Sums& sums) {
    F scaled[kRows][kVecs];
    Run<0>(g, scaled);
    if constexpr (K::kRuns == 2) Run<1>(g, scaled);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const F x_scale = S::SetF(x[r].scales[g]);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) sums[r][v] = S::Fma(scaled[r][v], x_scale, sums[r][v]);
    }
    if constexpr (K::kMin) AddMins(g, sums);
  }

  TANDEM_INLINE void AddMins(std::int64_t g, Sums& sums) {
#pragma GCC unroll 2
    for (int run = 0; run < K::kRuns; ++run) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const F factor = S::SetF(terms[r][g * K::kRuns + run].factor);
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) {
          sums[r][v] = S::Fma(S::LoadF(s.mins[g][run][v]), factor, sums[r][v]);
        }
      }
    }
  }

  TANDEM_INLINE void Start(const LinearArgs& a, std::int64_t t, std::int64_t k0,
                           std::int64_t groups, std::int32_t offset) {
    for (int r = 0; r < kRows; ++r) {
      x[r] = XCodes(a, t + r, k0);
      if constexpr (K::kHasTerms) MakeTerms<K>(x[r], groups, offset, terms[r]);
    }
  }

  TANDEM_INLINE void Multiply(std::int64_t groups, bool first, KeptSums<S>* kept) {
    Sums sums;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) sums[r][v] = first ? S::ZeroF() : S::LoadF(kept[r][v]);
    }
    for (std::int64_t g = 0; g < groups; ++g) Group(g, sums);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) S::StoreF(kept[r][v], sums[r][v]);
    }
  }
};

// Columns [k0, k0 + 32 groups), of codes with this offset.
struct Stretch {
  std::int64_t k0, groups;
  std::int32_t offset;
};

template <class S, class K, int kRows>
void ManyRowsOf(const LinearArgs& a, std::int64_t t, const Stretch& stretch, const Decoded<S, K>& s,
                KeptSums<S>* sums) {
  ManyRowsTile<S, K, kRows> tile(s);
  tile.Start(a, t, stretch.k0, stretch.groups, stretch.offset);
  tile.Multiply(stretch.groups, stretch.k0 == 0, sums);
}

template <class S, class K, int kRows>
TANDEM_INLINE void ManyRowsBy(std::int64_t rows, const LinearArgs& a, std::int64_t t,
                              const Stretch& stretch, const Decoded<S, K>& s, KeptSums<S>* sums) {
  if (rows == kRows) {
    ManyRowsOf<S, K, kRows>(a, t, stretch, s, sums);
  } else if constexpr (2 * kRows > kTileRows<S, K>) {
    ManyRowsBy<S, K, kRows - 1>(rows, a, t, stretch, s, sums);
  }
}

// Lines that will be decoded next, fetched a few with every tile of rows: decoding waits for memory
// otherwise, and multiplying leaves it idle.
struct Next {
  const char* panels[2];  // of which the second may be absent
  std::int64_t bytes;     // of each

  TANDEM_INLINE void Prefetch(std::int64_t i, std::int64_t parts) const {
    for (const char* panel : panels) {
      if (panel == nullptr) continue;
      for (std::int64_t at = Cut(bytes / 64, i, parts); at < Cut(bytes / 64, i + 1, parts); ++at) {
        _mm_prefetch(panel + 64 * at, _MM_HINT_T0);
      }
    }
  }
};

// What follows a stretch: more columns of the same panels, or the first of the next panels.
template <class S, class W>
Next NextOf(const LinearArgs& a, std::int64_t n, const Stretch& stretch) {
  constexpr std::int64_t kRows = S::kManyVecs * S::kLanes;
  const bool more = stretch.k0 + kManyCols < a.K;
  const std::int64_t row = more ? n : n + kRows;
  const std::int64_t k0 = more ? stretch.k0 + kManyCols : 0;
  Next next{{nullptr, nullptr}, 0};
  next.bytes = Min(kManyCols, a.K - k0) / kUnitCols<W> *
               static_cast<std::int64_t>(sizeof(typename W::Panel));
  for (std::int64_t i = 0; i * kPanelRows < kRows; ++i) {
    const std::int64_t first = row + i * kPanelRows;
    if (first < a.n1) next.panels[i] = reinterpret_cast<const char*>(Units<W>(a, first, k0));
  }
  return next;
}

// The decoded stretch times the rows [t0, t1).
template <class S, class K>
void MultiplyStretch(const LinearArgs& a, std::int64_t t0, std::int64_t t1, const Stretch& stretch,
                     const Decoded<S, K>& s, const Next& next, KeptSums<S>* sums) {
  constexpr int kRows = kTileRows<S, K>;
  const std::int64_t tiles = (t1 - t0 + kRows - 1) / kRows;
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::int64_t t = Cut(t1 - t0, i, tiles);
    const std::int64_t rows = Cut(t1 - t0, i + 1, tiles) - t;
    next.Prefetch(i, tiles);
    ManyRowsBy<S, K, kRows>(rows, a, t0 + t, stretch, s, sums + t);
  }
}

template <class S>
void StoreKept(const LinearArgs& a, std::int64_t n, std::int64_t t0, std::int64_t t1,
               const KeptSums<S>* sums) {
  for (std::int64_t t = t0; t < t1; ++t) {
    for (std::int64_t v = 0; v < S::kManyVecs && n + v * S::kLanes < a.n1; ++v) {
      StoreLanes<S>(a, t, n + v * S::kLanes, S::LoadF(sums[t - t0][v]));
    }
  }
}

// The rows [n, n + kManyVecs * kLanes) of w times the rows [t0, t1) of x.
template <class S, class W>
void MultiplyPanels(const LinearArgs& a, std::int64_t n, std::int64_t t0, std::int64_t t1) {
  using K = KindOf<S, W>;
  Decoded<S, K> decoded;
  alignas(64) KeptSums<S> sums[kManyBlock];
  Stretch stretch{0, 0, W::kOffset};
  do {  // once also for no columns, whose sums are 0
    stretch.groups = Min(kManyCols, a.K - stretch.k0) / kGroupCols;
    DecodeStretch<S, W>(a, n, stretch.k0, stretch.groups, decoded);
    MultiplyStretch<S, K>(a, t0, t1, stretch, decoded, NextOf<S, W>(a, n, stretch), sums);
    stretch.k0 += kManyCols;
  } while (stretch.k0 < a.K);
  StoreKept<S>(a, n, t0, t1, sums);
}

template <class S, class W>
void Many(const LinearArgs& a) {
  const std::int64_t blocks = (a.T + kManyBlock - 1) / kManyBlock;
  for (std::int64_t i = 0; i < blocks; ++i) {
    for (std::int64_t n = a.n0; n < a.n1; n += S::kManyVecs * S::kLanes) {
      MultiplyPanels<S, W>(a, n, Cut(a.T, i, blocks), Cut(a.T, i + 1, blocks));
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
