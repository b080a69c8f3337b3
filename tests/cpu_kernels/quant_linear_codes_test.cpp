// ctest: unit
// Products with weights in block formats: every code, and the largest sums.
#include <cmath>
#include <span>

#include "tests/support/quant_fixture.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::CallLinear;
using test::CaseName;
using test::ExpectedProducts;
using test::FilledWeights;
using test::NaiveProducts;
using test::PackedWeights;
using test::QuantArgs;
using test::Quantise;
using test::QuantisedRows;
using test::QuantLinear;
using test::Random;
using test::RandomRows;
using test::RandomWeights;

std::size_t Size(std::int64_t n) { return static_cast<std::size_t>(n); }

// Unit vectors of x find every weight: decoded values are exact, and one code of 127 leaves no
// more than the roundings of a product and of a min.
TEST_P(QuantLinear, SeesEveryWeightOfRandomBlocks) {
  const std::int64_t K = 256;
  const double roundoff = test::UnitRoundoff(DType::kF32);
  Random random(17);
  const PackedWeights w = RandomWeights(random, type(), 64, K);
  QuantisedRows x = RandomRows(random, K, K);
  for (std::int64_t t = 0; t < K; ++t) {
    for (std::int64_t k = 0; k < K; ++k) x.x[x.at(t, k)] = t == k ? 127.0F : 0.0F;
  }
  Quantise(Isa::kRef, x);
  for (const Isa isa : SupportedIsas()) {
    for (const DType x_type : {DType::kI8, DType::kF32}) {
      for (const std::int64_t T : {std::int64_t{1}, std::int64_t{4}, K}) {
        std::vector<float> y(Size(K * w.rows));
        for (std::int64_t t = 0; t < K; t += T) {
          std::vector<std::int32_t> rows;
          for (std::int64_t i = 0; i < T; ++i) rows.push_back(static_cast<std::int32_t>(t + i));
          LinearArgs a = QuantArgs(x, x_type, w, y);
          a.T = T;
          a.x_rows = a.y_rows = rows.data();
          CallLinear(isa, type(), a);
        }
        for (std::int64_t k = 0; k < K; ++k) {
          for (std::int64_t n = 0; n < w.rows; ++n) {
            const double want = 127.0 * static_cast<double>(w.value(n, k));
            const double size =
                127 * (std::fabs(w.value(n, k) - w.min(n, k)) + std::fabs(w.min(n, k)));
            ASSERT_NEAR(y[Size(k * w.rows + n)], want, 3 * roundoff * size)
                << CaseName(isa, x_type, x, w) << " T " << T << " n " << n << " k " << k;
          }
        }
      }
    }
  }
}

// The largest codes and x of one sign reach the largest integer sums: nothing may saturate.
TEST_P(QuantLinear, LargestProductsDoNotSaturate) {
  const std::int64_t K = 512;
  for (const int fill : {0x00, 0xFF, 0x80, 0x7F}) {
    const PackedWeights w = FilledWeights(type(), 16, K, fill);
    Random random(1);
    QuantisedRows x = RandomRows(random, 5, K);
    for (std::size_t i = 0; i < x.x.size(); ++i) {
      x.x[i] = i / Size(x.stride) % 2 == 0 ? 1.0F : -1.0F;
    }
    Quantise(Isa::kRef, x);
    const ExpectedProducts expected = NaiveProducts(x, w);
    for (const Isa isa : SupportedIsas()) {
      for (const std::int64_t T : {1, 5}) {
        std::vector<float> y(Size(5 * 16));
        LinearArgs a = QuantArgs(x, DType::kI8, w, y);
        a.T = T;
        CallLinear(isa, type(), a);
        const std::size_t count = Size(T * 16);
        EXPECT_TRUE(test::AllWithin(std::span(y).first(count),
                                    std::span(expected.rounded).first(count),
                                    std::span(expected.rounded_tolerance).first(count)))
            << CaseName(isa, DType::kI8, x, w) << " fill " << fill << " T " << T;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BlockFormats, QuantLinear,
                         ::testing::Range(kNumScalarFormats, kNumWeightFormats),
                         [](const auto& param) {
                           return std::string(Name(static_cast<DType>(param.param)));
                         });

}  // namespace
}  // namespace tandem::cpu
