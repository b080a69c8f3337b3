#pragma once

#include <cmath>

#include "model/quantize_lanes.h"

// The search for one scale a run: w = d n, n out of a grid.

namespace tandem::quantize {

// Whole numbers from Low to High.
template <int Low, int High>
struct UniformGrid {
  static constexpr float kEnd = Low;  // the farthest from zero

  // n = the member of the grid nearest to x times inverse.
  TANDEM_LANES_INLINE static void Nearest(const Lanes& x, const Lanes& inverse, Lanes& n) {
    for (int l = 0; l < kLanes; ++l) n.v[l] = RoundIn(x.v[l] * inverse.v[l], Low, High);
  }
  static std::uint8_t Code(float v) {
    return static_cast<std::uint8_t>(RoundIn(v, Low, High) - Low);
  }
};

// The entries of kIq4Values. The search goes over whole numbers in 8 bits, of which an instruction
// takes 16 or more, so a value within half a unit of the threshold between two entries may go to
// the farther one. Code() is exact.
struct Iq4Grid {
  static constexpr float kEnd = -127;

  TANDEM_LANES_INLINE static void Nearest(const Lanes& x, const Lanes& inverse, Lanes& n) {
    alignas(kLanes) std::int8_t v[kLanes];
    alignas(kLanes) std::int8_t entry[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      v[l] = static_cast<std::int8_t>(RoundIn(x.v[l] * inverse.v[l], -127, 127));
      entry[l] = kIq4Values[0];
    }
    for (int k = 0; k < 15; ++k) {
      const int sum = kIq4Values[k] + kIq4Values[k + 1];
      const auto threshold = static_cast<std::int8_t>(sum >> 1);
      const auto step = static_cast<std::int8_t>(kIq4Values[k + 1] - kIq4Values[k]);
      for (int l = 0; l < kLanes; ++l) {
        entry[l] = static_cast<std::int8_t>(entry[l] + (v[l] > threshold ? step : 0));
      }
    }
    for (int l = 0; l < kLanes; ++l) n.v[l] = entry[l];
  }
  static std::uint8_t Code(float v) {
    int code = 0;
    for (int k = 0; k < 15; ++k) {
      code += 2 * v > static_cast<float>(kIq4Values[k] + kIq4Values[k + 1]) ? 1 : 0;
    }
    return static_cast<std::uint8_t>(code);
  }
};

// What one look at all values with scale d finds: the error, and the sums that say how much a
// better d for the same n would save.
struct ScaleSums {
  Lanes ee;  // sum w e e with e = x - d n
  Lanes en;  // sum w e n
  Lanes nn;  // sum w n n
};

template <class Grid, int N>
TANDEM_LANES_INLINE void SumScaleBody(const Runs<N>& runs, const Lanes& d, ScaleSums& sums) {
  Lanes inverse;
  Lanes n;
  ScaleSums sum = {};
  for (int l = 0; l < kLanes; ++l) inverse.v[l] = Inverse(d.v[l]);
  for (int i = 0; i < N; ++i) {
    Grid::Nearest(runs.x[i], inverse, n);
    for (int l = 0; l < kLanes; ++l) {
      const float w = runs.w[i].v[l];
      const float e = runs.x[i].v[l] - d.v[l] * n.v[l];
      const float wn = w * n.v[l];
      sum.ee.v[l] += w * e * e;
      sum.en.v[l] += wn * e;
      sum.nn.v[l] += wn * n.v[l];
    }
  }
  sums = sum;
}

template <class Grid, int N>
TANDEM_LANES_AVX2 void SumScaleAvx2(const Runs<N>& runs, const Lanes& d, ScaleSums& sums) {
  SumScaleBody<Grid>(runs, d, sums);
}

template <class Grid, int N>
void SumScale(const Runs<N>& runs, const Lanes& d, ScaleSums& sums) {
  if (HasAvx2()) return SumScaleAvx2<Grid>(runs, d, sums);
  SumScaleBody<Grid>(runs, d, sums);
}

struct BestScale {
  Lanes d;
  Lanes error;
};

// Takes d where it is better than what was best, moved to the least squares for its n.
template <class Grid, int N>
void TryScale(const Runs<N>& runs, const Lanes& d, BestScale& best) {
  ScaleSums sums;
  SumScale<Grid>(runs, d, sums);
  for (int l = 0; l < kLanes; ++l) {
    const float step = sums.nn.v[l] > 0 ? sums.en.v[l] / sums.nn.v[l] : 0.0F;
    const float error = sums.ee.v[l] - step * sums.en.v[l];
    const bool better = error < best.error.v[l];
    best.error.v[l] = better ? error : best.error.v[l];
    best.d.v[l] = better ? d.v[l] + step : best.d.v[l];
  }
}

// The value of greatest magnitude of every run.
template <int N>
Lanes Extremes(const Runs<N>& runs) {
  Lanes extreme = runs.x[0];
  for (int i = 1; i < N; ++i) {
    for (int l = 0; l < kLanes; ++l) {
      const float x = runs.x[i].v[l];
      extreme.v[l] = std::fabs(x) > std::fabs(extreme.v[l]) ? x : extreme.v[l];
    }
  }
  return extreme;
}

// Where to look: the extreme value becomes `first`, `first + step`, ... of the grid's end, `count`
// of each sign.
struct ScaleSearch {
  float first;
  float step;
  int count;
  int polish;  // further moves from the best one
};

template <class Grid, int N>
BestScale SearchScale(const Runs<N>& runs, const ScaleSearch& search) {
  const Lanes extreme = Extremes(runs);
  BestScale best = {{}, Infinite()};
  for (int k = 0; k < 2 * search.count; ++k) {
    const float part = search.first + search.step * static_cast<float>(k / 2);
    const float divisor = 1 / (Grid::kEnd * (k % 2 == 0 ? part : -part));
    Lanes d;
    for (int l = 0; l < kLanes; ++l) d.v[l] = extreme.v[l] * divisor;
    TryScale<Grid>(runs, d, best);
  }
  for (int k = 0; k < search.polish; ++k) {
    const Lanes d = best.d;
    TryScale<Grid>(runs, d, best);
  }
  return best;
}

// codes[l * N + i] of all runs with their final scales.
template <class Grid, int N>
void ScaleCodes(const Runs<N>& runs, const Lanes& d, std::uint8_t* codes) {
  Lanes inverse;
  for (int l = 0; l < kLanes; ++l) inverse.v[l] = Inverse(d.v[l]);
  for (int i = 0; i < N; ++i) {
    std::uint8_t column[kLanes];
    for (int l = 0; l < kLanes; ++l) column[l] = Grid::Code(runs.x[i].v[l] * inverse.v[l]);
    for (int l = 0; l < kLanes; ++l) codes[l * N + i] = column[l];
  }
}

}  // namespace tandem::quantize
