// ctest: unit
// The products of many rows by AMX tiles, for every weight format.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "cpu_kernels/panel.h"
#include "memory/host_buffer.h"
#include "tests/support/naive.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::Random;

constexpr float kUntouched = -12345.0F;
constexpr std::int64_t kRowCounts[] = {1, 2, 16, 17, 31, 32, 33, 64, 333};

class Amx : public testing::Test {
 protected:
  void SetUp() override {
    if (!Supports(Isa::kAmx)) GTEST_SKIP() << "this CPU or its kernel offers no AMX tiles";
  }
};

// Where blocks of a format hold f16 scales; the other bytes may be anything.
std::vector<std::size_t> HalfOffsets(DType type) {
  switch (type) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ2_K:
      return {offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)};
    case DType::kQ3_K:
      return {offsetof(BlockQ3_K, d)};
    case DType::kQ6_K:
      return {offsetof(BlockQ6_K, d)};
    case DType::kMXFP4:
      return {};
    default:
      return {0};
  }
}

std::vector<std::byte> RandomBlocks(Random& random, DType type, std::int64_t values) {
  std::vector<std::byte> bytes(DataBytes(type, values));
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.Integer(0, 255));
  const std::size_t block = BlockBytes(type);
  for (std::size_t at = 0; at < bytes.size(); at += block) {
    for (const std::size_t offset : HalfOffsets(type)) {
      const std::uint16_t half = F32ToF16(random.Uniform(-0.02F, 0.02F));
      std::memcpy(&bytes[at + offset], &half, sizeof half);
    }
    if (type == DType::kMXFP4) bytes[at] = static_cast<std::byte>(random.Integer(115, 125));
  }
  return bytes;
}

// w in the layout that kernels read, and its values.
struct Weights {
  DType type;
  std::int64_t rows, cols;
  test::Matrix scalar;  // of scalar formats
  HostBuffer panels;    // of block formats
  std::vector<float> values;

  const void* data() const {
    return IsBlockFormat(type) ? static_cast<const void*>(panels.data()) : scalar.data();
  }
};

Weights RandomWeights(Random& random, DType type, std::int64_t rows, std::int64_t cols) {
  Weights w{type, rows, cols, {}, {}, std::vector<float>(static_cast<std::size_t>(rows * cols))};
  if (IsBlockFormat(type)) {
    const std::vector<std::byte> blocks = RandomBlocks(random, type, rows * cols);
    DecodeBlocks(type, blocks.data(), w.values);
    w.panels = HostBuffer(PackedBytes(type, rows, cols));
    PackPanels(type, blocks.data(), rows, cols, w.panels.as<std::byte>());
    return w;
  }
  w.scalar = test::RandomMatrix(random, type, rows, cols, type == DType::kF8E4M3 ? 101 : 0);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    w.values[static_cast<std::size_t>(i)] = static_cast<float>(w.scalar.At(i / cols, i % cols));
  }
  return w;
}

struct X {
  std::int64_t rows, cols, stride;
  std::vector<float> values;
  std::vector<std::uint16_t> bf16;  // the last row ends with its last value
};

X RandomX(Random& random, std::int64_t rows, std::int64_t cols, std::int64_t gap) {
  X x{rows, cols, cols + gap, random.Uniforms(rows * (cols + gap) - gap, -1, 1), {}};
  // What lies between rows is not x, and no number.
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    const bool is_gap = static_cast<std::int64_t>(i) % x.stride >= cols;
    x.bf16.push_back(is_gap ? 0x7FC0 : F32ToBf16(x.values[i]));
  }
  return x;
}

const ManyRows& Many(DType type) {
  static const KernelTable table = MakeKernelTable(Isa::kAmx);
  return table.many[static_cast<int>(type)];
}

LinearArgs Args(const X& x, const Weights& w, std::vector<float>& y) {
  LinearArgs a;
  a.x = x.bf16.data();
  a.x_type = DType::kBF16;
  a.x_stride = x.stride;
  a.w = w.data();
  a.w_scale = w.scalar.scales.data();
  a.scale_stride = w.scalar.scale_stride;
  a.scale_row0 = w.scalar.scale_row0;
  a.y = y.data();
  a.y_stride = w.rows;
  a.T = x.rows;
  a.K = x.cols;
  a.n1 = w.rows;
  return a;
}

// What a product may be off by. Against f32 x and the weights as defined: the roundings of both to
// bf16, in the worst case and as a random walk. Against the operands as rounded: f32 summation, and
// weights so near the middle between two bf16 values that decoding in f32 may take the other one.
struct Expected {
  std::vector<double> exact, worst, walk, rounded, summation;
};

struct RoundedWeight {
  double value, doubt;
};

// Decoding adds and removes a power of two (cpu_kernels/amx/decode.h): off by up to 2^-15 of the
// largest weight that shares a scale.
std::vector<RoundedWeight> RoundWeights(const Weights& w) {
  std::vector<RoundedWeight> rounded;
  for (std::size_t i = 0; i < w.values.size(); ++i) {
    const std::size_t block = i / 32 * 32;
    float largest = 0;
    for (std::size_t j = block; IsBlockFormat(w.type) && j < block + 32; ++j) {
      largest = std::max(largest, std::fabs(w.values[j]));
    }
    const float slack = largest * 0x1p-15F;
    const double low = Bf16ToF32(F32ToBf16(w.values[i] - slack));
    const double high = Bf16ToF32(F32ToBf16(w.values[i] + slack));
    rounded.push_back({Bf16ToF32(F32ToBf16(w.values[i])), high - low});
  }
  return rounded;
}

Expected Naive(const X& x, const Weights& w) {
  const std::vector<RoundedWeight> w16 = RoundWeights(w);
  const double roundoff = test::UnitRoundoff(DType::kBF16);
  Expected e;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      double exact = 0, rounded = 0, magnitude = 0, squares = 0, doubt = 0;
      for (std::int64_t k = 0; k < x.cols; ++k) {
        const auto at = static_cast<std::size_t>(t * x.stride + k);
        const auto i = static_cast<std::size_t>(n * x.cols + k);
        const double x16 = Bf16ToF32(x.bf16[at]);
        const double term = static_cast<double>(x.values[at]) * w.values[i];
        exact += term;
        rounded += x16 * w16[i].value;
        magnitude += std::fabs(term);
        squares += term * term;
        doubt += std::fabs(x16) * w16[i].doubt;
      }
      e.exact.push_back(exact);
      e.rounded.push_back(rounded);
      e.worst.push_back(2 * roundoff * (1 + roundoff) * magnitude + 1e-30);
      // Two uniform errors a term; six deviations.
      e.walk.push_back(6 * roundoff * std::sqrt(2 * squares / 3) + 1e-30);
      e.summation.push_back(test::SumTolerance(x.cols) * magnitude * 1.01 + doubt + 1e-30);
    }
  }
  return e;
}

std::string Case(const X& x, const Weights& w) {
  return std::string(Name(w.type)) + " T " + std::to_string(x.rows) + " N " +
         std::to_string(w.rows) + " K " + std::to_string(x.cols);
}

void ExpectRight(const std::vector<float>& y, const Expected& e, const std::string& name) {
  EXPECT_TRUE(test::AllWithin(y, e.rounded, e.summation)) << name << ", rounded operands";
  EXPECT_TRUE(test::AllWithin(y, e.exact, e.walk)) << name << ", random walk";
  EXPECT_TRUE(test::AllWithin(y, e.exact, e.worst)) << name << ", worst case";
}

// Fewer rows and a part of w give the same bits and touch nothing else.
void ExpectSameAlone(const X& x, const Weights& w, const std::vector<float>& whole,
                     std::int64_t rows, std::int64_t n0, std::int64_t n1) {
  std::vector<float> y(whole.size(), kUntouched);
  LinearArgs a = Args(x, w, y);
  a.T = rows;
  a.n0 = n0;
  a.n1 = n1;
  Many(w.type).linear(a);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      const auto i = static_cast<std::size_t>(t * w.rows + n);
      const float want = t < rows && n >= n0 && n < n1 ? whole[i] : kUntouched;
      ASSERT_EQ(std::memcmp(&y[i], &want, sizeof want), 0)
          << Case(x, w) << " rows " << rows << " n " << n0 << " to " << n1 << " t " << t << " n "
          << n << ": " << y[i] << " alone, " << want << " together";
    }
  }
}

void Check(DType type, std::int64_t T, std::int64_t N, std::int64_t K) {
  Random random(static_cast<std::uint64_t>(K + T));
  const X x = RandomX(random, T, K, K % 3 * 8);
  const Weights w = RandomWeights(random, type, N, K);
  std::vector<float> y(static_cast<std::size_t>(T * N), kUntouched);
  Many(type).linear(Args(x, w, y));
  ExpectRight(y, Naive(x, w), Case(x, w));
  for (const std::int64_t rows : kRowCounts) {
    if (rows <= T) ExpectSameAlone(x, w, y, rows, 0, N);
  }
  const std::int64_t first = IsBlockFormat(type) ? 16 : 5;
  ExpectSameAlone(x, w, y, std::min<std::int64_t>(T, 19), first, N);
  ExpectSameAlone(x, w, y, std::min<std::int64_t>(T, 16), first, first + 3);
  ExpectSameAlone(x, w, y, std::min<std::int64_t>(T, 40), 0, N - 9);
}

class AmxFormat : public Amx, public testing::WithParamInterface<int> {
 protected:
  DType type() const { return static_cast<DType>(GetParam()); }
};

TEST_P(AmxFormat, IsRightAndBatchInvariant) {
  const bool large_blocks = BlockElements(type()) == 256;
  for (const std::int64_t K : {64, 256, 1408, 2048}) {
    if (K % BlockElements(type()) == 0) Check(type(), 333, 45, K);
  }
  if (large_blocks) Check(type(), 64, 45, 1536);
  Check(type(), 33, 21, 7168);
  Check(type(), 3, 21, 18432);
}

TEST_F(Amx, AnyKOfRowMajorWeights) {
  for (int type = 0; type < kNumScalarFormats; ++type) {
    for (const std::int64_t K : {1, 15, 31, 33, 127, 129, 255, 257, 290}) {
      Check(static_cast<DType>(type), 40, 37, K);
    }
  }
}

TEST_P(AmxFormat, MoreRowsThanOneBlockOfX) {
  Random random(5);
  const X x = RandomX(random, 1100, 256, 0);
  const Weights w = RandomWeights(random, type(), 300, 256);
  std::vector<float> y(static_cast<std::size_t>(x.rows * w.rows), kUntouched);
  Many(type()).linear(Args(x, w, y));
  for (const std::int64_t t : {0, 511, 512, 549, 550, 1099}) {
    std::vector<float> alone(static_cast<std::size_t>(w.rows));
    LinearArgs a = Args(x, w, alone);
    a.x = x.bf16.data() + t * x.stride;
    a.T = 1;
    Many(type()).linear(a);
    const auto* row = y.data() + t * w.rows;
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), row)) << Case(x, w) << " row " << t;
  }
}

TEST_P(AmxFormat, RowListsAndAccumulateEqualSeparateCalls) {
  Random random(11);
  const X x = RandomX(random, 9, 512, 8);
  const Weights w = RandomWeights(random, type(), 31, 512);
  for (const bool accumulate : {true, false}) {
    const std::vector<std::int32_t> x_rows = {8, 0, 3, 3, 5, 1, 7, 2, 2, 4, 6, 8, 0, 1, 3, 5, 7, 8};
    std::vector<std::int32_t> y_rows = {0, 8, 8, 2, 0, 0, 4, 1, 3, 5, 7, 6, 6, 6, 9, 9, 1, 2};
    for (std::size_t i = 0; !accumulate && i < y_rows.size(); ++i) {
      y_rows[i] = static_cast<std::int32_t>(17 - i);
    }
    const std::vector<float> start = random.Uniforms(18 * 31, -1, 1);
    std::vector<float> together = start, alone = start;
    LinearArgs a = Args(x, w, together);
    a.accumulate = accumulate;
    a.T = static_cast<std::int64_t>(x_rows.size());
    a.x_rows = x_rows.data();
    a.y_rows = y_rows.data();
    Many(type()).linear(a);
    for (std::size_t i = 0; i < x_rows.size(); ++i) {
      LinearArgs one = Args(x, w, alone);
      one.accumulate = accumulate;
      one.T = 1;
      one.x = x.bf16.data() + x_rows[i] * x.stride;
      one.y = alone.data() + y_rows[i] * 31;
      Many(type()).linear(one);
    }
    EXPECT_EQ(together, alone) << Case(x, w) << (accumulate ? " accumulating" : "");
  }
}

TEST_P(AmxFormat, OfNothingIsZeroOrUntouched) {
  const X x{6, 0, 0, {}, {}};
  const Weights w{type(), 4, 0, test::MakeMatrix(DType::kF32, 4, 0), {}, {}};
  std::vector<float> y(24, kUntouched);
  LinearArgs a = Args(x, w, y);
  Many(type()).linear(a);
  EXPECT_EQ(y, std::vector<float>(24, 0.0F));
  a.T = 0;
  y.assign(24, kUntouched);
  Many(type()).linear(a);
  EXPECT_EQ(y, std::vector<float>(24, kUntouched));
}

INSTANTIATE_TEST_SUITE_P(Formats, AmxFormat, testing::Range(0, kNumWeightFormats),
                         [](const auto& format) {
                           return std::string(Name(static_cast<DType>(format.param)));
                         });

TEST_F(Amx, EveryFormatHasItsKernelFromSomeRowsOn) {
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const ManyRows& many = Many(static_cast<DType>(i));
    EXPECT_NE(many.linear, nullptr) << Name(static_cast<DType>(i));
    EXPECT_GE(many.min_rows, 2) << Name(static_cast<DType>(i));
  }
}

}  // namespace
}  // namespace tandem::cpu
