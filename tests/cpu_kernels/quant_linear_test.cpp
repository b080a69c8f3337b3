// ctest: unit
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "cpu_kernels/panel.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::Random;

constexpr float kUntouched = -12345.0F;
constexpr double kRoundoff = 0x1p-24;

std::size_t Size(std::int64_t n) { return static_cast<std::size_t>(n); }

void PutHalf(std::byte* at, float value) {
  const std::uint16_t half = F32ToF16(value);
  std::memcpy(at, &half, sizeof half);
}

struct Field {
  std::size_t at, size;
};

// Where a block keeps its f16 scales, and its codes: (first byte, bytes).
struct Layout {
  std::vector<std::size_t> halves;
  std::vector<Field> codes;
};
Layout LayoutOf(DType type) {
  switch (type) {
    case DType::kQ4_1:
      return {{offsetof(BlockQ4_1, d), offsetof(BlockQ4_1, m)}, {{offsetof(BlockQ4_1, q), 16}}};
    case DType::kQ5_1:
      return {{offsetof(BlockQ5_1, d), offsetof(BlockQ5_1, m)}, {{offsetof(BlockQ5_1, qh), 20}}};
    case DType::kQ2_K:
      return {{offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)}, {{offsetof(BlockQ2_K, q), 64}}};
    case DType::kQ4_K:
      return {{offsetof(BlockQ4_K, d), offsetof(BlockQ4_K, dmin)}, {{offsetof(BlockQ4_K, q), 128}}};
    case DType::kQ5_K:
      return {{offsetof(BlockQ5_K, d), offsetof(BlockQ5_K, dmin)},
              {{offsetof(BlockQ5_K, qh), 160}}};
    case DType::kQ3_K:
      return {{offsetof(BlockQ3_K, d)}, {}};
    case DType::kQ6_K:
      return {{offsetof(BlockQ6_K, d)}, {}};
    case DType::kMXFP4:
      return {{}, {}};
    default:
      return {{0}, {}};  // d comes first
  }
}

// A matrix of random codes, packed, and what it stands for.
struct Weights {
  DType type;
  std::int64_t rows, cols;
  std::vector<float> values;
  std::vector<float> mins;  // the part of each value that its code does not scale
  std::vector<std::byte> storage;
  std::size_t start = 0;

  const std::byte* panels() const { return storage.data() + start; }
  float value(std::int64_t n, std::int64_t k) const { return values[Size(n * cols + k)]; }
  float min(std::int64_t n, std::int64_t k) const { return mins[Size(n * cols + k)]; }
};

std::vector<std::byte> RandomBlocks(Random& random, DType type, std::int64_t count) {
  const std::size_t bytes = BlockBytes(type);
  std::vector<std::byte> blocks(Size(count) * bytes);
  for (std::byte& byte : blocks) byte = static_cast<std::byte>(random.Integer(0, 255));
  const Layout layout = LayoutOf(type);
  for (std::size_t i = 0; i < Size(count); ++i) {
    for (const std::size_t at : layout.halves) {
      PutHalf(&blocks[i * bytes + at], random.Uniform(-0.02F, 0.02F));
    }
    if (type == DType::kMXFP4) blocks[i * bytes] = static_cast<std::byte>(random.Integer(110, 125));
  }
  return blocks;
}

// Values with all codes 0: the mins.
std::vector<float> Mins(DType type, std::vector<std::byte> blocks, std::size_t elements) {
  const Layout layout = LayoutOf(type);
  std::vector<float> mins(elements);
  if (layout.codes.empty()) return mins;
  for (std::size_t i = 0; i < blocks.size(); i += BlockBytes(type)) {
    for (const Field& field : layout.codes) std::memset(&blocks[i + field.at], 0, field.size);
  }
  DecodeBlocks(type, blocks.data(), mins);
  return mins;
}

Weights FromBlocks(DType type, std::int64_t rows, std::int64_t cols,
                   const std::vector<std::byte>& blocks) {
  Weights w{type, rows, cols, std::vector<float>(Size(rows * cols)), {}, {}};
  DecodeBlocks(type, blocks.data(), w.values);
  w.mins = Mins(type, blocks, w.values.size());
  w.storage.resize(PackedBytes(type, rows, cols) + 64);
  w.start = (64 - reinterpret_cast<std::uintptr_t>(w.storage.data()) % 64) % 64;
  PackPanels(type, blocks.data(), rows, cols, w.storage.data() + w.start);
  return w;
}

Weights RandomWeights(Random& random, DType type, std::int64_t rows, std::int64_t cols) {
  return FromBlocks(type, rows, cols,
                    RandomBlocks(random, type, rows * cols / BlockElements(type)));
}

// Rows of x and what quantize_rows makes of them; rows lie further apart than they are long.
struct Activations {
  std::int64_t rows, cols, stride;
  std::vector<float> x, scale;
  std::vector<std::int8_t> codes;
  std::vector<std::int32_t> sums;

  double exact(std::int64_t t, std::int64_t k) const { return x[Size(t * stride + k)]; }
  double step(std::int64_t t, std::int64_t k) const { return scale[Size((t * stride + k) / 32)]; }
  double rounded(std::int64_t t, std::int64_t k) const {
    return static_cast<double>(codes[Size(t * stride + k)]) * step(t, k);
  }
};

void Quantise(Isa isa, Activations& x) {
  QuantizeArgs a;
  a.x = x.x.data();
  a.x_stride = x.stride;
  a.q = x.codes.data();
  a.scale = x.scale.data();
  a.sum = x.sums.data();
  a.stride = x.stride;
  a.T = x.rows;
  a.K = x.cols;
  MakeKernelTable(isa).quantize_rows(a);
}

// Blocks of very different sizes, some of them zero.
Activations RandomActivations(Random& random, std::int64_t rows, std::int64_t cols) {
  const std::int64_t stride = cols + 32;
  const std::size_t size = Size(rows * stride);
  Activations x{rows,
                cols,
                stride,
                random.Uniforms(rows * stride, -1, 1),
                std::vector<float>(size / 32, kUntouched),
                std::vector<std::int8_t>(size, 99),
                std::vector<std::int32_t>(size / 16, -77)};
  for (std::size_t block = 0; block < size / 32; ++block) {
    const std::int64_t kind = random.Integer(0, 9);
    const float factor = kind == 0 ? 0.0F : kind == 1 ? 20.0F : kind == 2 ? 1e-3F : 1.0F;
    for (std::size_t i = 0; i < 32; ++i) x.x[block * 32 + i] *= factor;
  }
  Quantise(Isa::kRef, x);
  return x;
}

LinearArgs Args(const Activations& x, DType x_type, const Weights& w, std::vector<float>& y) {
  LinearArgs a;
  a.x_type = x_type;
  a.x = x_type == DType::kF32 ? static_cast<const void*>(x.x.data()) : x.codes.data();
  a.x_stride = x.stride;
  a.x_scale = x.scale.data();
  a.x_sum = x.sums.data();
  a.w = w.panels();
  a.y = y.data();
  a.y_stride = w.rows;
  a.T = x.rows;
  a.K = x.cols;
  a.n1 = w.rows;
  return a;
}

void CallLinear(Isa isa, DType format, const LinearArgs& args) {
  MakeKernelTable(isa).linear[static_cast<int>(format)](args);
}

std::string Case(Isa isa, DType x_type, const Activations& x, const Weights& w) {
  return fmt::format("{} {} x {} rows {} N {} K {}", Name(isa), Name(w.type), Name(x_type), x.rows,
                     w.rows, x.cols);
}

// The products in double, with three tolerances: what f32 summation may lose with each kind of x,
// and what rounding x to codes may change. A rounding is off by at most half a step and as good as
// independent of its neighbours: six deviations of their weighted sum. Codes and mins are summed
// apart, so both count for the size of the terms.
struct Expected {
  std::vector<double> exact, exact_tolerance, rounded, rounded_tolerance, rounding;
};

Expected Naive(const Activations& x, const Weights& w) {
  Expected e;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      double exact = 0, rounded = 0, size = 0, rounded_size = 0, variance = 0;
      for (std::int64_t k = 0; k < x.cols; ++k) {
        const double value = w.value(n, k);
        const double parts = std::fabs(value - w.min(n, k)) + std::fabs(w.min(n, k));
        exact += x.exact(t, k) * value;
        rounded += x.rounded(t, k) * value;
        size += std::fabs(x.exact(t, k)) * parts;
        rounded_size += std::fabs(x.rounded(t, k)) * parts;
        const double step = x.step(t, k) * value;
        variance += step * step / 12;
      }
      e.exact.push_back(exact);
      e.exact_tolerance.push_back(test::SumTolerance(x.cols) * size);
      e.rounded.push_back(rounded);
      e.rounded_tolerance.push_back(test::SumTolerance(x.cols) * rounded_size);
      e.rounding.push_back(e.rounded_tolerance.back() + 6 * std::sqrt(variance));
    }
  }
  return e;
}

// Rows apart, and ranges of n, must give the same bits.
void ExpectBatchInvariant(Isa isa, DType x_type, const Activations& x, const Weights& w,
                          const std::vector<float>& whole) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 16}) {
    if (rows >= x.rows) continue;
    const std::int64_t n0 = rows % 2 * 16;
    const std::int64_t n1 = w.rows - rows % 3;
    if (n0 >= n1) continue;
    std::vector<float> y(whole.size(), kUntouched);
    LinearArgs a = Args(x, x_type, w, y);
    a.T = rows;
    a.n0 = n0;
    a.n1 = n1;
    CallLinear(isa, w.type, a);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t n = 0; n < w.rows; ++n) {
        const std::size_t i = Size(t * w.rows + n);
        const float want = t < rows && n >= n0 && n < n1 ? whole[i] : kUntouched;
        ASSERT_EQ(std::memcmp(&y[i], &want, sizeof want), 0)
            << Case(isa, x_type, x, w) << ": " << rows << " rows, t " << t << " n " << n << ": "
            << y[i] << " alone, " << want << " together";
      }
    }
  }
}

void CheckEveryLevel(DType type, std::int64_t K, std::int64_t T, std::int64_t N) {
  Random random(static_cast<std::uint64_t>(K * 1000 + T));
  const Weights w = RandomWeights(random, type, N, K);
  const Activations x = RandomActivations(random, T, K);
  const Expected expected = Naive(x, w);
  for (const Isa isa : SupportedIsas()) {
    std::vector<float> y(Size(T * N), kUntouched);
    CallLinear(isa, type, Args(x, DType::kI8, w, y));
    EXPECT_TRUE(test::AllWithin(y, expected.rounded, expected.rounded_tolerance))
        << Case(isa, DType::kI8, x, w) << ", x as rounded";
    EXPECT_TRUE(test::AllWithin(y, expected.exact, expected.rounding))
        << Case(isa, DType::kI8, x, w) << ", x before rounding";
    ExpectBatchInvariant(isa, DType::kI8, x, w, y);
    y.assign(y.size(), kUntouched);
    CallLinear(isa, type, Args(x, DType::kF32, w, y));
    EXPECT_TRUE(test::AllWithin(y, expected.exact, expected.exact_tolerance))
        << Case(isa, DType::kF32, x, w);
    ExpectBatchInvariant(isa, DType::kF32, x, w, y);
  }
}

class QuantLinear : public ::testing::TestWithParam<int> {
 protected:
  DType type() const { return static_cast<DType>(GetParam()); }
};

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
  const Weights w = RandomWeights(random, type(), 20, 256);
  Activations x = RandomActivations(random, 7, 256);
  for (const Isa isa : SupportedIsas()) {
    for (const DType x_type : {DType::kI8, DType::kF32}) {
      std::vector<float> y(7 * 20, kUntouched);
      LinearArgs a = Args(x, x_type, w, y);
      a.K = 0;
      CallLinear(isa, type(), a);
      EXPECT_EQ(y, std::vector<float>(7 * 20, 0.0F)) << Case(isa, x_type, x, w);
      y.assign(y.size(), kUntouched);
      a.T = 0;
      CallLinear(isa, type(), a);
      EXPECT_EQ(y, std::vector<float>(7 * 20, kUntouched)) << Case(isa, x_type, x, w);
    }
  }
}

// Gathered rows, scattered results with shared targets: equal to one call per row, bit for bit.
void CheckRowLists(Isa isa, DType type, DType x_type, bool accumulate,
                   const std::vector<std::int32_t>& x_rows,
                   const std::vector<std::int32_t>& y_rows) {
  constexpr std::int64_t kN = 37;
  Random random(11);
  const Weights w = RandomWeights(random, type, kN, 256);
  const Activations x = RandomActivations(random, 9, 256);
  const std::vector<float> start = random.Uniforms(9 * kN, -1, 1);
  std::vector<float> together = start;
  std::vector<float> alone = start;
  LinearArgs a = Args(x, x_type, w, together);
  a.accumulate = accumulate;
  a.T = static_cast<std::int64_t>(x_rows.size());
  a.x_rows = x_rows.data();
  a.y_rows = y_rows.data();
  CallLinear(isa, type, a);
  for (std::size_t i = 0; i < x_rows.size(); ++i) {
    LinearArgs one = Args(x, x_type, w, alone);
    one.accumulate = accumulate;
    one.T = 1;
    one.x_rows = &x_rows[i];
    one.y_rows = &y_rows[i];
    CallLinear(isa, type, one);
  }
  EXPECT_EQ(together, alone) << Case(isa, x_type, x, w) << " list of " << x_rows.size();
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

// Unit vectors of x find every weight: decoded values are exact, and one code of 127 leaves no
// more than the roundings of a product and of a min.
TEST_P(QuantLinear, SeesEveryWeightOfRandomBlocks) {
  const std::int64_t K = 256;
  Random random(17);
  const Weights w = RandomWeights(random, type(), 64, K);
  Activations x = RandomActivations(random, K, K);
  for (std::int64_t t = 0; t < K; ++t) {
    for (std::int64_t k = 0; k < K; ++k) x.x[Size(t * x.stride + k)] = t == k ? 127.0F : 0.0F;
  }
  Quantise(Isa::kRef, x);
  for (const Isa isa : SupportedIsas()) {
    for (const DType x_type : {DType::kI8, DType::kF32}) {
      for (const std::int64_t T : {std::int64_t{1}, std::int64_t{4}, K}) {
        std::vector<float> y(Size(K * w.rows));
        for (std::int64_t t = 0; t < K; t += T) {
          std::vector<std::int32_t> rows;
          for (std::int64_t i = 0; i < T; ++i) rows.push_back(static_cast<std::int32_t>(t + i));
          LinearArgs a = Args(x, x_type, w, y);
          a.T = T;
          a.x_rows = a.y_rows = rows.data();
          CallLinear(isa, type(), a);
        }
        for (std::int64_t k = 0; k < K; ++k) {
          for (std::int64_t n = 0; n < w.rows; ++n) {
            const double want = 127.0 * static_cast<double>(w.value(n, k));
            const double size =
                127 * (std::fabs(w.value(n, k) - w.min(n, k)) + std::fabs(w.min(n, k)));
            ASSERT_NEAR(y[Size(k * w.rows + n)], want, 3 * kRoundoff * size)
                << Case(isa, x_type, x, w) << " T " << T << " n " << n << " k " << k;
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
    std::vector<std::byte> blocks(DataBytes(type(), 16 * K), static_cast<std::byte>(fill));
    const Layout layout = LayoutOf(type());
    for (std::size_t i = 0; i < blocks.size(); i += BlockBytes(type())) {
      for (const std::size_t at : layout.halves) PutHalf(&blocks[i + at], 0.01F);
      if (type() == DType::kMXFP4) blocks[i] = std::byte{120};
    }
    const Weights w = FromBlocks(type(), 16, K, blocks);
    Random random(1);
    Activations x = RandomActivations(random, 5, K);
    for (std::size_t i = 0; i < x.x.size(); ++i) {
      x.x[i] = i / Size(x.stride) % 2 == 0 ? 1.0F : -1.0F;
    }
    Quantise(Isa::kRef, x);
    const Expected expected = Naive(x, w);
    for (const Isa isa : SupportedIsas()) {
      for (const std::int64_t T : {1, 5}) {
        std::vector<float> y(Size(5 * 16));
        LinearArgs a = Args(x, DType::kI8, w, y);
        a.T = T;
        CallLinear(isa, type(), a);
        const std::size_t count = Size(T * 16);
        EXPECT_TRUE(test::AllWithin(std::span(y).first(count),
                                    std::span(expected.rounded).first(count),
                                    std::span(expected.rounded_tolerance).first(count)))
            << Case(isa, DType::kI8, x, w) << " fill " << fill << " T " << T;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BlockFormats, QuantLinear,
                         ::testing::Range(kNumScalarFormats, kNumWeightFormats),
                         [](const auto& param) {
                           return std::string(Name(static_cast<DType>(param.param)));
                         });

TEST(QuantizeRows, IsTheSameAtEveryLevelAndWithinHalfAStep) {
  Random random(5);
  Activations x = RandomActivations(random, 9, 352);
  for (std::size_t i = 0; i < 32; ++i) x.x[i] = i == 7 ? 1e-44F : 0.0F;  // too small for a scale
  Quantise(Isa::kRef, x);
  for (const Isa isa : SupportedIsas()) {
    Activations other = x;
    Quantise(isa, other);
    EXPECT_EQ(other.codes, x.codes) << Name(isa);
    EXPECT_EQ(other.scale, x.scale) << Name(isa);
    EXPECT_EQ(other.sums, x.sums) << Name(isa);
  }
  for (std::int64_t t = 0; t < x.rows; ++t) {
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < x.cols; ++k) {
      // 127 / scale, scale and their product round: 127 x 3 roundoffs of a step.
      const double bound = x.step(t, k) * (0.5 + 127 * 3 * kRoundoff) + 1e-40;
      ASSERT_NEAR(x.rounded(t, k), x.exact(t, k), bound) << "t " << t << " k " << k;
      sum = (k % 16 == 0 ? 0 : sum) + x.codes[Size(t * x.stride + k)];
      if (k % 16 != 15) continue;
      ASSERT_EQ(x.sums[Size((t * x.stride + k) / 16)], sum);
    }
  }
}

// NaN and infinity must not turn into numbers.
TEST(QuantizeRows, WhatIsNotFiniteReachesTheResult) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), -HUGE_VALF}) {
    for (const std::int64_t at : {0, 13, 31, 40, 63}) {
      Random random(2);
      const Weights w = RandomWeights(random, DType::kQ8_0, 16, 64);
      Activations x = RandomActivations(random, 1, 64);
      x.x[Size(at)] = bad;
      for (const Isa isa : SupportedIsas()) {
        Quantise(isa, x);
        for (std::int64_t k = 0; k < 64; ++k) ASSERT_GE(x.codes[Size(k)], -127);
        std::vector<float> y(16);
        CallLinear(isa, DType::kQ8_0, Args(x, DType::kI8, w, y));
        for (const float value : y) {
          ASSERT_FALSE(std::isfinite(value)) << Name(isa) << " " << bad << " at " << at;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
