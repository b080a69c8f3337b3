#include <algorithm>
#include <cmath>
#include <cstring>

#include "memory/error.h"
#include "model/quantize_scale.h"

// Q6_K, Q3_K and IQ4_XS: w = d sc n, with a whole sc for every run and d for the block. First the
// best scale of every run by itself, then d and sc together.

namespace tandem::quantize {
namespace {

// A state of the search; d is the same in all lanes of a block.
struct Scales {
  Lanes d;
  Lanes sc;
  Lanes error;
};

template <class Format>
constexpr int kRuns = 256 / Format::kRun;  // of a block
template <class Format>
constexpr int kBlocks = kLanes / kRuns<Format>;  // in all lanes

template <class Format>
using FormatRuns = Runs<Format::kRun>;

// Product of the lanes, that is the scale of every run.
Lanes Times(const Lanes& a, const Lanes& b) {
  Lanes product;
  for (int l = 0; l < kLanes; ++l) product.v[l] = a.v[l] * b.v[l];
  return product;
}

template <class Format>
void TrySc(const FormatRuns<Format>& runs, const Lanes& sc, Scales& best) {
  ScaleSums sums;
  SumScale<typename Format::Grid>(runs, Times(best.d, sc), sums);
  for (int l = 0; l < kLanes; ++l) {
    const bool better = sums.ee.v[l] < best.error.v[l];
    best.error.v[l] = better ? sums.ee.v[l] : best.error.v[l];
    best.sc.v[l] = better ? sc.v[l] : best.sc.v[l];
  }
}

// The best sc of every run for given d: that nearest to the wished scale and its neighbours.
template <class Format>
Scales ChooseSc(const FormatRuns<Format>& runs, const Lanes& d, const Lanes& wished) {
  Scales best = {d, {}, Infinite()};
  for (int step = -1; step <= 1; ++step) {
    Lanes sc;
    for (int l = 0; l < kLanes; ++l) {
      sc.v[l] = RoundIn(wished.v[l] * Inverse(d.v[l]) + static_cast<float>(step), Format::kLowSc,
                        Format::kHighSc);
    }
    TrySc<Format>(runs, sc, best);
  }
  return best;
}

// The best of all sc. Where a few values carry most of the weight, the error has many valleys, and
// the deepest may not hold a whole sc: for Q3_K this lowers the weighted error by a tenth.
template <class Format>
Scales ChooseOfAllSc(const FormatRuns<Format>& runs, const Lanes& d) {
  Scales best = {d, {}, Infinite()};
  for (float sc = Format::kLowSc; sc <= Format::kHighSc; ++sc) {
    TrySc<Format>(runs, Constant(sc), best);
  }
  return best;
}

// The d of least squares for the codes that follow from d sc.
template <class Format>
Lanes FitD(const FormatRuns<Format>& runs, const Scales& scales) {
  ScaleSums sums;
  SumScale<typename Format::Grid>(runs, Times(scales.d, scales.sc), sums);
  Lanes d = scales.d;
  for (int b = 0; b < kBlocks<Format>; ++b) {
    float en = 0;
    float nn = 0;
    for (int l = b * kRuns<Format>; l < (b + 1) * kRuns<Format>; ++l) {
      en += scales.sc.v[l] * sums.en.v[l];
      nn += scales.sc.v[l] * scales.sc.v[l] * sums.nn.v[l];
    }
    const float fitted = RoundScale(d.v[b * kRuns<Format>] + (nn > 0 ? en / nn : 0.0F));
    std::fill_n(d.v + b * kRuns<Format>, kRuns<Format>, fitted);
  }
  return d;
}

template <class Format>
void KeepBetter(const Scales& now, Scales& best) {
  for (int first = 0; first < kLanes; first += kRuns<Format>) {
    float before = 0;
    float after = 0;
    for (int l = first; l < first + kRuns<Format>; ++l) {
      before += best.error.v[l];
      after += now.error.v[l];
    }
    if (!(after < before)) continue;
    std::copy_n(now.d.v + first, kRuns<Format>, best.d.v + first);
    std::copy_n(now.sc.v + first, kRuns<Format>, best.sc.v + first);
    std::copy_n(now.error.v + first, kRuns<Format>, best.error.v + first);
  }
}

// The d for which the run with the largest scale takes `part` of the lowest sc.
template <class Format>
Lanes StartD(const Lanes& wished, float part) {
  Lanes d;
  for (int first = 0; first < kLanes; first += kRuns<Format>) {
    float extreme = 0;
    for (int l = first; l < first + kRuns<Format>; ++l) {
      if (std::fabs(wished.v[l]) > std::fabs(extreme)) extreme = wished.v[l];
    }
    const float start = RoundBlockScale(extreme / (part * Format::kLowSc));
    std::fill_n(d.v + first, kRuns<Format>, start);
  }
  return d;
}

template <class Format>
Scales Search(const FormatRuns<Format>& runs, bool weighted) {
  const Lanes wished = SearchScale<typename Format::Grid>(runs, Format::kSearch).d;
  Scales best = {{}, {}, Infinite()};
  for (const float part : Format::kParts) {
    KeepBetter<Format>(ChooseSc<Format>(runs, StartD<Format>(wished, part), wished), best);
  }
  if (weighted && Format::kAllSc) KeepBetter<Format>(ChooseOfAllSc<Format>(runs, best.d), best);
  for (int k = 0; k < Format::kPolish; ++k) {
    const Lanes d = FitD<Format>(runs, best);
    KeepBetter<Format>(ChooseSc<Format>(runs, d, Times(best.d, best.sc)), best);
  }
  return best;
}

struct Q6 {
  using Block = BlockQ6_K;
  using Grid = UniformGrid<-32, 31>;
  static constexpr int kRun = 16;
  static constexpr float kLowSc = -128;
  static constexpr float kHighSc = 127;
  static constexpr bool kAllSc = false;  // whether all are tried where values have weights
  static constexpr ScaleSearch kSearch = {0.92F, 0.02F, 6, 1};
  static constexpr float kParts[] = {1.0F};
  static constexpr int kPolish = 1;

  static void Pack(float d, const float* sc, const std::uint8_t* codes, Block& block) {
    block.d = ScaleBits(d);
    for (int run = 0; run < 16; ++run) block.scales[run] = static_cast<std::int8_t>(sc[run]);
    for (int half = 0; half < 2; ++half) {
      const std::uint8_t* c = codes + half * 128;
      for (int i = 0; i < 32; ++i) {
        std::uint8_t* ql = block.ql + half * 64 + i;
        ql[0] = static_cast<std::uint8_t>((c[i] & 15) | (c[i + 64] & 15) << 4);
        ql[32] = static_cast<std::uint8_t>((c[i + 32] & 15) | (c[i + 96] & 15) << 4);
        block.qh[half * 32 + i] = static_cast<std::uint8_t>(
            c[i] >> 4 | c[i + 32] >> 4 << 2 | c[i + 64] >> 4 << 4 | c[i + 96] >> 4 << 6);
      }
    }
  }
};

struct Q3 {
  using Block = BlockQ3_K;
  using Grid = UniformGrid<-4, 3>;
  static constexpr int kRun = 16;
  static constexpr float kLowSc = -32;
  static constexpr float kHighSc = 31;
  static constexpr bool kAllSc = true;
  static constexpr ScaleSearch kSearch = {0.6F, 0.06F, 9, 2};
  static constexpr float kParts[] = {1.0F, 0.95F, 0.9F};
  static constexpr int kPolish = 2;

  static void Pack(float d, const float* sc, const std::uint8_t* codes, Block& block) {
    block.d = ScaleBits(d);
    for (int run = 0; run < 16; ++run) {
      const int scale = static_cast<int>(sc[run]) + 32;
      std::uint8_t& low = block.scales[run % 8];
      std::uint8_t& high = block.scales[8 + run % 4];
      low = static_cast<std::uint8_t>(low | (scale & 15) << (run / 8 * 4));
      high = static_cast<std::uint8_t>(high | scale >> 4 << (run / 4 * 2));
    }
    for (int i = 0; i < 256; ++i) {
      std::uint8_t& q = block.q[i / 128 * 32 + i % 32];
      q = static_cast<std::uint8_t>(q | (codes[i] & 3) << (i / 32 % 4 * 2));
      block.hmask[i % 32] =
          static_cast<std::uint8_t>(block.hmask[i % 32] | codes[i] >> 2 << (i / 32));
    }
  }
};

struct Iq4Xs {
  using Block = BlockIQ4_XS;
  using Grid = Iq4Grid;
  static constexpr int kRun = 32;
  static constexpr float kLowSc = -32;
  static constexpr float kHighSc = 31;
  static constexpr bool kAllSc = false;
  static constexpr ScaleSearch kSearch = {0.8F, 0.05F, 7, 1};
  static constexpr float kParts[] = {1.0F};
  static constexpr int kPolish = 1;

  static void Pack(float d, const float* sc, const std::uint8_t* codes, Block& block) {
    block.d = ScaleBits(d);
    for (int run = 0; run < 8; ++run) {
      const int scale = static_cast<int>(sc[run]) + 32;
      std::uint8_t& low = block.scales_l[run / 2];
      low = static_cast<std::uint8_t>(low | (scale & 15) << (run % 2 * 4));
      block.scales_h = static_cast<std::uint16_t>(block.scales_h | scale >> 4 << (2 * run));
      for (int i = 0; i < 16; ++i) {
        const std::uint8_t* c = codes + run * 32 + i;
        block.q[run * 16 + i] = static_cast<std::uint8_t>(c[0] | c[16] << 4);
      }
    }
  }
};

template <class Format>
void Quantize(Values values, std::byte* out) {
  FormatRuns<Format> runs;
  std::uint8_t codes[kLanes * Format::kRun];
  while (values.count > 0) {
    LoadRuns(values, runs);
    const Scales scales = Search<Format>(runs, values.weighted);
    ScaleCodes<typename Format::Grid>(runs, Times(scales.d, scales.sc), codes);
    const auto blocks = std::min<std::int64_t>(kBlocks<Format>, values.count / 256);
    for (std::int64_t b = 0; b < blocks; ++b, out += sizeof(typename Format::Block)) {
      const std::int64_t lane = b * kRuns<Format>;
      typename Format::Block block = {};
      Format::Pack(scales.d.v[lane], scales.sc.v + lane, codes + b * 256, block);
      std::memcpy(out, &block, sizeof(block));
    }
    values.x += blocks * 256;
    values.first += blocks * 256;
    values.count -= blocks * 256;
  }
}

}  // namespace

void QuantizeKScale(DType type, const Values& values, std::byte* out) {
  if (type == DType::kQ6_K) return Quantize<Q6>(values, out);
  if (type == DType::kQ3_K) return Quantize<Q3>(values, out);
  TANDEM_CHECK(type == DType::kIQ4_XS);
  Quantize<Iq4Xs>(values, out);
}

}  // namespace tandem::quantize
