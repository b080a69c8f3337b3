#pragma once

#include "model/quantize_lanes.h"

// The search for a scale and an offset a run: w = s n + b, n in [0, Max].

namespace tandem::quantize {

// What one look at all values with (s, b) finds.
struct PairSums {
  Lanes ee;  // sum w e e with e = x - s n - b
  Lanes e1;  // sum w e
  Lanes en;  // sum w e n
  Lanes n1;  // sum w n
  Lanes nn;  // sum w n n
};

template <int Max, int N>
TANDEM_LANES_INLINE void SumPairBody(const Runs<N>& runs, const Lanes& s, const Lanes& b,
                                     PairSums& sums) {
  Lanes inverse;
  PairSums sum = {};
  for (int l = 0; l < kLanes; ++l) inverse.v[l] = Inverse(s.v[l]);
  for (int i = 0; i < N; ++i) {
    for (int l = 0; l < kLanes; ++l) {
      const float w = runs.w[i].v[l];
      const float x = runs.x[i].v[l] - b.v[l];
      const float n = RoundIn(x * inverse.v[l], 0, Max);
      const float e = x - s.v[l] * n;
      const float we = w * e;
      const float wn = w * n;
      sum.ee.v[l] += we * e;
      sum.e1.v[l] += we;
      sum.en.v[l] += we * n;
      sum.n1.v[l] += wn;
      sum.nn.v[l] += wn * n;
    }
  }
  sums = sum;
}

template <int Max, int N>
TANDEM_LANES_AVX2 void SumPairAvx2(const Runs<N>& runs, const Lanes& s, const Lanes& b,
                                   PairSums& sums) {
  SumPairBody<Max>(runs, s, b, sums);
}

template <int Max, int N>
void SumPair(const Runs<N>& runs, const Lanes& s, const Lanes& b, PairSums& sums) {
  if (HasAvx2()) return SumPairAvx2<Max>(runs, s, b, sums);
  SumPairBody<Max>(runs, s, b, sums);
}

struct BestPair {
  Lanes s;
  Lanes b;
  Lanes error;
};

// Takes (s, b) where it is better than what was best, moved to the least squares for its n. With
// Negative the offset stays at or below zero.
template <int Max, bool Negative, int N>
void TryPair(const Runs<N>& runs, const Lanes& s, const Lanes& b, BestPair& best) {
  PairSums sums;
  SumPair<Max>(runs, s, b, sums);
  for (int l = 0; l < kLanes; ++l) {
    const float w1 = runs.total.v[l];
    const float e1 = sums.e1.v[l];
    const float en = sums.en.v[l];
    const float n1 = sums.n1.v[l];
    const float nn = sums.nn.v[l];
    const float det = nn * w1 - n1 * n1;
    const bool flat = !(det > 1e-6F * nn * w1);  // all n are the same
    const float over_det = flat ? 0.0F : 1 / det;
    float ds = (en * w1 - e1 * n1) * over_det;
    float db = flat ? 0.0F : (nn * e1 - n1 * en) * over_det;
    const bool above = Negative && b.v[l] + db > 0;
    db = above ? -b.v[l] : db;
    ds = above ? (nn > 0 ? (en - db * n1) / nn : 0.0F) : ds;
    const float change = ds * (ds * nn + 2 * (db * n1 - en)) + db * (db * w1 - 2 * e1);
    const float error = sums.ee.v[l] + change;
    const bool better = error < best.error.v[l];
    best.error.v[l] = better ? error : best.error.v[l];
    best.s.v[l] = better ? s.v[l] + ds : best.s.v[l];
    best.b.v[l] = better ? b.v[l] + db : best.b.v[l];
  }
}

struct Range {
  Lanes low;
  Lanes width;
};

template <bool Negative, int N>
Range RangeOf(const Runs<N>& runs) {
  Lanes low = runs.x[0];
  Lanes high = runs.x[0];
  for (int i = 1; i < N; ++i) {
    for (int l = 0; l < kLanes; ++l) {
      const float x = runs.x[i].v[l];
      low.v[l] = x < low.v[l] ? x : low.v[l];
      high.v[l] = x > high.v[l] ? x : high.v[l];
    }
  }
  Range range;
  for (int l = 0; l < kLanes; ++l) {
    range.low.v[l] = Negative && low.v[l] > 0 ? 0.0F : low.v[l];
    range.width.v[l] = high.v[l] > range.low.v[l] ? high.v[l] - range.low.v[l] : 0.0F;
  }
  return range;
}

// Where to look: the range of a run with 0, `step`, 2 `step`, ... of it cut off at either end,
// beginning at `first`.
struct PairSearch {
  float first;
  float step;
  int count;   // at each end
  int polish;  // further moves from the best one
};

template <int Max, bool Negative, int N>
BestPair SearchPair(const Runs<N>& runs, const PairSearch& search) {
  const Range range = RangeOf<Negative>(runs);
  BestPair best = {{}, {}, Infinite()};
  for (int k = 0; k < search.count * search.count; ++k) {
    const float below = search.first + search.step * static_cast<float>(k / search.count);
    const float above = search.first + search.step * static_cast<float>(k % search.count);
    Lanes s;
    Lanes b;
    for (int l = 0; l < kLanes; ++l) {
      s.v[l] = range.width.v[l] * ((1 - below - above) / Max);
      b.v[l] = range.low.v[l] + range.width.v[l] * below;
      b.v[l] = Negative && b.v[l] > 0 ? 0.0F : b.v[l];
    }
    TryPair<Max, Negative>(runs, s, b, best);
  }
  for (int k = 0; k < search.polish; ++k) {
    const Lanes s = best.s;
    const Lanes b = best.b;
    TryPair<Max, Negative>(runs, s, b, best);
  }
  return best;
}

// codes[l * N + i] of all runs with their final scales and offsets.
template <int Max, int N>
void PairCodes(const Runs<N>& runs, const Lanes& s, const Lanes& b, std::uint8_t* codes) {
  Lanes inverse;
  for (int l = 0; l < kLanes; ++l) inverse.v[l] = Inverse(s.v[l]);
  for (int i = 0; i < N; ++i) {
    std::uint8_t column[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      const float n = RoundIn((runs.x[i].v[l] - b.v[l]) * inverse.v[l], 0, Max);
      column[l] = static_cast<std::uint8_t>(n);
    }
    for (int l = 0; l < kLanes; ++l) codes[l * N + i] = column[l];
  }
}

}  // namespace tandem::quantize
