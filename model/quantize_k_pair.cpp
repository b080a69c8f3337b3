#include <algorithm>
#include <cstring>

#include "memory/error.h"
#include "model/quantize_pair.h"

// Q2_K, Q4_K and Q5_K: w = d sc n - dmin m, with whole sc and m for every run, d and dmin for the
// block. First the best scale and offset of every run by itself, then all four together.

namespace tandem::quantize {
namespace {

// A state of the search; d and dmin are the same in all lanes of a block.
struct Pairs {
  Lanes d, dmin;
  Lanes sc, m;
  Lanes error;
};

template <class Format>
constexpr int kRuns = 256 / Format::kRun;  // of a block
template <class Format>
constexpr int kBlocks = kLanes / kRuns<Format>;  // in all lanes

template <class Format>
using FormatRuns = Runs<Format::kRun>;

Lanes ScaleOf(const Pairs& p) {
  Lanes s;
  for (int l = 0; l < kLanes; ++l) s.v[l] = p.d.v[l] * p.sc.v[l];
  return s;
}

Lanes OffsetOf(const Pairs& p) {
  Lanes b;
  for (int l = 0; l < kLanes; ++l) b.v[l] = -(p.dmin.v[l] * p.m.v[l]);
  return b;
}

// Sums of the state as it is; takes sc and m where they are better than what was best.
template <class Format>
void Measure(const FormatRuns<Format>& runs, const Pairs& p, PairSums& sums, Pairs& best) {
  SumPair<Format::kMax>(runs, ScaleOf(p), OffsetOf(p), sums);
  for (int l = 0; l < kLanes; ++l) {
    const bool better = sums.ee.v[l] < best.error.v[l];
    best.error.v[l] = better ? sums.ee.v[l] : best.error.v[l];
    best.sc.v[l] = better ? p.sc.v[l] : best.sc.v[l];
    best.m.v[l] = better ? p.m.v[l] : best.m.v[l];
  }
}

// The best sc and m of every run for given d and dmin: sc near the wished scale, each with the m
// next to the wished offset and then that of least squares.
template <class Format>
Pairs Choose(const FormatRuns<Format>& runs, const Pairs& start, const Lanes& scale,
             const Lanes& offset) {
  Pairs best = start;
  best.error = Infinite();
  for (int step = -Format::kReach; step <= Format::kReach; ++step) {
    Pairs p = start;
    for (int l = 0; l < kLanes; ++l) {
      const float sc = scale.v[l] * Inverse(p.d.v[l]);
      p.sc.v[l] = RoundIn(sc + static_cast<float>(step), 0, Format::kMaxSc);
      p.m.v[l] = RoundIn(-offset.v[l] * Inverse(p.dmin.v[l]), 0, Format::kMaxSc);
    }
    PairSums sums;
    Measure<Format>(runs, p, sums, best);
    for (int l = 0; l < kLanes; ++l) {
      const float shift = runs.total.v[l] > 0 ? sums.e1.v[l] / runs.total.v[l] : 0.0F;
      const float m = p.m.v[l] - shift * Inverse(p.dmin.v[l]);
      p.m.v[l] = RoundIn(m, 0, Format::kMaxSc);
    }
    Measure<Format>(runs, p, sums, best);
  }
  return best;
}

struct Normal {  // equations of d and dmin
  float uu = 0, uv = 0, vv = 0, eu = 0, ev = 0;
};

// d and dmin of least squares for the codes that follow from the state.
template <class Format>
Pairs FitD(const FormatRuns<Format>& runs, const Pairs& p) {
  PairSums sums;
  SumPair<Format::kMax>(runs, ScaleOf(p), OffsetOf(p), sums);
  Pairs fitted = p;
  for (int first = 0; first < kLanes; first += kRuns<Format>) {
    Normal n;
    for (int l = first; l < first + kRuns<Format>; ++l) {
      const float sc = p.sc.v[l];
      const float m = p.m.v[l];
      n.uu += sc * sc * sums.nn.v[l];
      n.uv -= sc * m * sums.n1.v[l];
      n.vv += m * m * runs.total.v[l];
      n.eu += sc * sums.en.v[l];
      n.ev -= m * sums.e1.v[l];
    }
    const float det = n.uu * n.vv - n.uv * n.uv;
    if (!(det > 1e-6F * n.uu * n.vv)) continue;
    const float d = p.d.v[first] + (n.eu * n.vv - n.ev * n.uv) / det;
    const float dmin = p.dmin.v[first] + (n.uu * n.ev - n.uv * n.eu) / det;
    std::fill_n(fitted.d.v + first, kRuns<Format>, RoundScale(d));
    std::fill_n(fitted.dmin.v + first, kRuns<Format>, RoundScale(dmin > 0 ? dmin : 0.0F));
  }
  return fitted;
}

template <class Format>
void KeepBetter(const Pairs& now, Pairs& best) {
  for (int first = 0; first < kLanes; first += kRuns<Format>) {
    float before = 0;
    float after = 0;
    for (int l = first; l < first + kRuns<Format>; ++l) {
      before += best.error.v[l];
      after += now.error.v[l];
    }
    if (!(after < before)) continue;
    for (Lanes Pairs::*part : {&Pairs::d, &Pairs::dmin, &Pairs::sc, &Pairs::m, &Pairs::error}) {
      std::copy_n((now.*part).v + first, kRuns<Format>, (best.*part).v + first);
    }
  }
}

// d and dmin for which the largest scale and offset of a block take `part` of the largest code.
template <class Format>
Pairs Start(const BestPair& wished, float part) {
  Pairs p = {};
  for (int first = 0; first < kLanes; first += kRuns<Format>) {
    float s = 0;
    float m = 0;
    for (int l = first; l < first + kRuns<Format>; ++l) {
      s = std::max(s, wished.s.v[l]);
      m = std::max(m, -wished.b.v[l]);
    }
    const float over = 1 / (part * Format::kMaxSc);
    std::fill_n(p.d.v + first, kRuns<Format>, RoundBlockScale(s * over));
    std::fill_n(p.dmin.v + first, kRuns<Format>, RoundBlockScale(m * over));
  }
  return p;
}

template <class Format>
Pairs Search(const FormatRuns<Format>& runs) {
  const BestPair wished = SearchPair<Format::kMax, true>(runs, Format::kSearch);
  Pairs best = {{}, {}, {}, {}, Infinite()};
  for (const float part : Format::kParts) {
    const Pairs start = Start<Format>(wished, part);
    KeepBetter<Format>(Choose<Format>(runs, start, wished.s, wished.b), best);
  }
  for (int k = 0; k < Format::kPolish; ++k) {
    const Pairs fitted = FitD<Format>(runs, best);
    KeepBetter<Format>(Choose<Format>(runs, fitted, ScaleOf(best), OffsetOf(best)), best);
  }
  return best;
}

// The 6-bit pairs of Q4_K and Q5_K.
void PackPairs(const float* sc, const float* m, std::uint8_t* scales) {
  for (int j = 0; j < 4; ++j) {
    const auto at = [&](const float* v, int run) { return static_cast<int>(v[run]); };
    scales[j] = static_cast<std::uint8_t>(at(sc, j) | at(sc, j + 4) >> 4 << 6);
    scales[j + 4] = static_cast<std::uint8_t>(at(m, j) | at(m, j + 4) >> 4 << 6);
    scales[j + 8] = static_cast<std::uint8_t>((at(sc, j + 4) & 15) | (at(m, j + 4) & 15) << 4);
  }
}

// 4 bits of every code: those of runs 2 g and 2 g + 1 in the halves of 32 bytes.
void PackHalves(const std::uint8_t* codes, std::uint8_t* q) {
  for (int i = 0; i < 128; ++i) {
    const std::uint8_t* c = codes + i / 32 * 64 + i % 32;
    q[i] = static_cast<std::uint8_t>((c[0] & 15) | (c[32] & 15) << 4);
  }
}

struct Q4 {
  using Block = BlockQ4_K;
  static constexpr int kRun = 32;
  static constexpr int kMax = 15;
  static constexpr float kMaxSc = 63;
  static constexpr int kReach = 1;
  static constexpr PairSearch kSearch = {0, 0.04F, 3, 2};
  static constexpr float kParts[] = {1.0F};
  static constexpr int kPolish = 1;

  static void Pack(const float* sc, const float* m, const std::uint8_t* codes, Block& block) {
    PackPairs(sc, m, block.scales);
    PackHalves(codes, block.q);
  }
};

struct Q5 {
  using Block = BlockQ5_K;
  static constexpr int kRun = 32;
  static constexpr int kMax = 31;
  static constexpr float kMaxSc = 63;
  static constexpr int kReach = 1;
  static constexpr PairSearch kSearch = {0, 0.02F, 3, 2};
  static constexpr float kParts[] = {1.0F};
  static constexpr int kPolish = 1;

  static void Pack(const float* sc, const float* m, const std::uint8_t* codes, Block& block) {
    PackPairs(sc, m, block.scales);
    PackHalves(codes, block.q);
    for (int i = 0; i < 256; ++i) {
      block.qh[i % 32] = static_cast<std::uint8_t>(block.qh[i % 32] | codes[i] >> 4 << i / 32);
    }
  }
};

struct Q2 {
  using Block = BlockQ2_K;
  static constexpr int kRun = 16;
  static constexpr int kMax = 3;
  static constexpr float kMaxSc = 15;
  static constexpr int kReach = 1;
  static constexpr PairSearch kSearch = {0, 0.08F, 4, 2};
  static constexpr float kParts[] = {1.0F, 0.9F};
  static constexpr int kPolish = 2;

  static void Pack(const float* sc, const float* m, const std::uint8_t* codes, Block& block) {
    for (int run = 0; run < 16; ++run) {
      const int min = static_cast<int>(m[run]);
      block.scales[run] = static_cast<std::uint8_t>(static_cast<int>(sc[run]) | min << 4);
    }
    for (int i = 0; i < 256; ++i) {
      std::uint8_t& q = block.q[i / 128 * 32 + i % 32];
      q = static_cast<std::uint8_t>(q | codes[i] << (i / 32 % 4 * 2));
    }
  }
};

template <class Format>
void Quantize(Values values, std::byte* out) {
  FormatRuns<Format> runs;
  std::uint8_t codes[kLanes * Format::kRun];
  while (values.count > 0) {
    LoadRuns(values, runs);
    const Pairs p = Search<Format>(runs);
    PairCodes<Format::kMax>(runs, ScaleOf(p), OffsetOf(p), codes);
    const auto blocks = std::min<std::int64_t>(kBlocks<Format>, values.count / 256);
    for (std::int64_t b = 0; b < blocks; ++b, out += sizeof(typename Format::Block)) {
      const std::int64_t lane = b * kRuns<Format>;
      typename Format::Block block = {};
      block.d = ScaleBits(p.d.v[lane]);
      block.dmin = ScaleBits(p.dmin.v[lane]);
      Format::Pack(p.sc.v + lane, p.m.v + lane, codes + b * 256, block);
      std::memcpy(out, &block, sizeof(block));
    }
    values.x += blocks * 256;
    values.first += blocks * 256;
    values.count -= blocks * 256;
  }
}

}  // namespace

void QuantizeKPair(DType type, const Values& values, std::byte* out) {
  if (type == DType::kQ4_K) return Quantize<Q4>(values, out);
  if (type == DType::kQ5_K) return Quantize<Q5>(values, out);
  TANDEM_CHECK(type == DType::kQ2_K);
  Quantize<Q2>(values, out);
}

}  // namespace tandem::quantize
