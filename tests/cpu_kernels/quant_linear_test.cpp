// ctest: unit
#include <cstring>

#include "tests/support/quant_fixture.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::CallLinear;
using test::CaseName;
using test::ExpectedProducts;
using test::kUntouched;
using test::NaiveProducts;
using test::PackedWeights;
using test::QuantArgs;
using test::QuantisedRows;
using test::QuantLinear;
using test::Random;
using test::RandomRows;
using test::RandomWeights;

std::size_t Size(std::int64_t n) { return static_cast<std::size_t>(n); }

// Rows apart, and ranges of n, must give the same bits.
void ExpectBatchInvariant(Isa isa, DType x_type, const QuantisedRows& x, const PackedWeights& w,
                          const std::vector<float>& whole) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 16}) {
    if (rows >= x.rows) continue;
    const std::int64_t n0 = rows % 2 * 16;
    const std::int64_t n1 = w.rows - rows % 3;
    if (n0 >= n1) continue;
    std::vector<float> y(whole.size(), kUntouched);
    LinearArgs a = QuantArgs(x, x_type, w, y);
    a.T = rows;
    a.n0 = n0;
    a.n1 = n1;
    CallLinear(isa, w.type, a);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t n = 0; n < w.rows; ++n) {
        const std::size_t i = Size(t * w.rows + n);
        const float want = t < rows && n >= n0 && n < n1 ? whole[i] : kUntouched;
        ASSERT_EQ(std::memcmp(&y[i], &want, sizeof want), 0)
            << CaseName(isa, x_type, x, w) << ": " << rows << " rows, t " << t << " n " << n << ": "
            << y[i] << " alone, " << want << " together";
      }
    }
  }
}

void CheckEveryLevel(DType type, std::int64_t K, std::int64_t T, std::int64_t N) {
  Random random(static_cast<std::uint64_t>(K * 1000 + T));
  const PackedWeights w = RandomWeights(random, type, N, K);
  const QuantisedRows x = RandomRows(random, T, K);
  const ExpectedProducts expected = NaiveProducts(x, w);
  for (const Isa isa : SupportedIsas()) {
    std::vector<float> y(Size(T * N), kUntouched);
    CallLinear(isa, type, QuantArgs(x, DType::kI8, w, y));
    EXPECT_TRUE(test::AllWithin(y, expected.rounded, expected.rounded_tolerance))
        << CaseName(isa, DType::kI8, x, w) << ", x as rounded";
    EXPECT_TRUE(test::AllWithin(y, expected.exact, expected.rounding))
        << CaseName(isa, DType::kI8, x, w) << ", x before rounding";
    ExpectBatchInvariant(isa, DType::kI8, x, w, y);
    y.assign(y.size(), kUntouched);
    CallLinear(isa, type, QuantArgs(x, DType::kF32, w, y));
    EXPECT_TRUE(test::AllWithin(y, expected.exact, expected.exact_tolerance))
        << CaseName(isa, DType::kF32, x, w);
    ExpectBatchInvariant(isa, DType::kF32, x, w, y);
  }
}

TEST_P(QuantLinear, IsRightAndBatchInvariantForAnyNumberOfRows) {
  const std::int64_t K = BlockElements(type()) == 32 ? 1408 : 768;
  for (const std::int64_t T : {1, 2, 3, 5, 8, 16, 17}) CheckEveryLevel(type(), K, T, 53);
  CheckEveryLevel(type(), 768, 64, 21);
  CheckEveryLevel(type(), 256, 333, 35);
}

TEST_P(QuantLinear, IsRightForTheModelsShapes) {
  for (const std::int64_t K : {32, 1408, 2048, 2304, 3072, 4096, 7168, 8448}) {
    if (K % BlockElements(type()) == 0) CheckEveryLevel(type(), K, 6, 17);
  }
}

TEST_P(QuantLinear, OfNothingIsZeroOrUntouched) {
  Random random(3);
  const PackedWeights w = RandomWeights(random, type(), 20, 256);
  QuantisedRows x = RandomRows(random, 7, 256);
  for (const Isa isa : SupportedIsas()) {
    for (const DType x_type : {DType::kI8, DType::kF32}) {
      std::vector<float> y(7 * 20, kUntouched);
      LinearArgs a = QuantArgs(x, x_type, w, y);
      a.K = 0;
      CallLinear(isa, type(), a);
      EXPECT_EQ(y, std::vector<float>(7 * 20, 0.0F)) << CaseName(isa, x_type, x, w);
      y.assign(y.size(), kUntouched);
      a.T = 0;
      CallLinear(isa, type(), a);
      EXPECT_EQ(y, std::vector<float>(7 * 20, kUntouched)) << CaseName(isa, x_type, x, w);
    }
  }
}

// Gathered rows, scattered results with shared targets: equal to one call per row, bit for bit.
void CheckRowLists(Isa isa, DType type, DType x_type, bool accumulate,
                   const std::vector<std::int32_t>& x_rows,
                   const std::vector<std::int32_t>& y_rows) {
  constexpr std::int64_t kN = 37;
  Random random(11);
  const PackedWeights w = RandomWeights(random, type, kN, 256);
  const QuantisedRows x = RandomRows(random, 9, 256);
  const std::vector<float> start = random.Uniforms(9 * kN, -1, 1);
  std::vector<float> together = start;
  std::vector<float> alone = start;
  LinearArgs a = QuantArgs(x, x_type, w, together);
  a.accumulate = accumulate;
  a.T = static_cast<std::int64_t>(x_rows.size());
  a.x_rows = x_rows.data();
  a.y_rows = y_rows.data();
  CallLinear(isa, type, a);
  for (std::size_t i = 0; i < x_rows.size(); ++i) {
    LinearArgs one = QuantArgs(x, x_type, w, alone);
    one.accumulate = accumulate;
    one.T = 1;
    one.x_rows = &x_rows[i];
    one.y_rows = &y_rows[i];
    CallLinear(isa, type, one);
  }
  EXPECT_EQ(together, alone) << CaseName(isa, x_type, x, w) << " list of " << x_rows.size();
}

TEST_P(QuantLinear, RowListsAndAccumulateEqualSeparateCalls) {
  for (const Isa isa : SupportedIsas()) {
    for (const DType x_type : {DType::kI8, DType::kF32}) {
      CheckRowLists(isa, type(), x_type, true, {3, 3, 8}, {1, 1, 1});
      CheckRowLists(isa, type(), x_type, true, {8, 0, 3, 3, 5, 1, 7}, {0, 8, 8, 2, 0, 0, 4});
      CheckRowLists(isa, type(), x_type, false, {8, 0, 3, 3, 5, 1, 7}, {0, 8, 1, 2, 3, 5, 4});
      CheckRowLists(isa, type(), x_type, false, {2, 6}, {7, 0});
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
