// ctest: unit
// Rows of x as int8 codes.
#include <cmath>
#include <limits>

#include "tests/support/quant_fixture.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::CallLinear;
using test::PackedWeights;
using test::QuantArgs;
using test::Quantise;
using test::QuantisedRows;
using test::Random;
using test::RandomRows;
using test::RandomWeights;

std::size_t Size(std::int64_t n) { return static_cast<std::size_t>(n); }

TEST(QuantizeRows, IsTheSameAtEveryLevelAndWithinHalfAStep) {
  const double roundoff = test::UnitRoundoff(DType::kF32);
  Random random(5);
  QuantisedRows x = RandomRows(random, 9, 352);
  for (std::size_t i = 0; i < 32; ++i) x.x[i] = i == 7 ? 1e-44F : 0.0F;  // too small for a scale
  Quantise(Isa::kRef, x);
  for (const Isa isa : SupportedIsas()) {
    QuantisedRows other = x;
    Quantise(isa, other);
    EXPECT_EQ(other.codes, x.codes) << Name(isa);
    EXPECT_EQ(other.scale, x.scale) << Name(isa);
    EXPECT_EQ(other.sums, x.sums) << Name(isa);
  }
  for (std::int64_t t = 0; t < x.rows; ++t) {
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < x.cols; ++k) {
      // 127 / scale, scale and their product round: 127 x 3 roundoffs of a step.
      const double bound = x.step(t, k) * (0.5 + 127 * 3 * roundoff) + 1e-40;
      ASSERT_NEAR(x.rounded(t, k), x.exact(t, k), bound) << "t " << t << " k " << k;
      sum = (k % 16 == 0 ? 0 : sum) + x.codes[x.at(t, k)];
      if (k % 16 != 15) continue;
      ASSERT_EQ(x.sums[x.at(t, k) / 16], sum);
    }
  }
}

// NaN and infinity must not turn into numbers.
TEST(QuantizeRows, WhatIsNotFiniteReachesTheResult) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), -HUGE_VALF}) {
    for (const std::int64_t at : {0, 13, 31, 40, 63}) {
      Random random(2);
      const PackedWeights w = RandomWeights(random, DType::kQ8_0, 16, 64);
      QuantisedRows x = RandomRows(random, 1, 64);
      x.x[Size(at)] = bad;
      for (const Isa isa : SupportedIsas()) {
        Quantise(isa, x);
        for (std::int64_t k = 0; k < 64; ++k) ASSERT_GE(x.codes[Size(k)], -127);
        std::vector<float> y(16);
        CallLinear(isa, DType::kQ8_0, QuantArgs(x, DType::kI8, w, y));
        for (const float value : y) {
          ASSERT_FALSE(std::isfinite(value)) << Name(isa) << " " << bad << " at " << at;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
