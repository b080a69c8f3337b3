// ctest: unit
#include "cpu_kernels/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "tests/support/naive.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::Matrix;
using test::Random;

constexpr DType kFormats[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};
constexpr DType kXTypes[] = {DType::kF32, DType::kBF16};
constexpr float kUntouched = -12345.0F;

LinearArgs Args(const Matrix& x, const Matrix& w, std::vector<float>& y, std::int64_t n) {
  LinearArgs a;
  a.x = x.data();
  a.x_type = x.type;
  a.x_stride = x.cols;
  a.w = w.data();
  a.w_scale = w.scales.data();
  a.scale_stride = w.scale_stride;
  a.scale_row0 = w.scale_row0;
  a.y = y.data();
  a.y_stride = n;
  a.T = x.rows;
  a.K = x.cols;
  a.n1 = n;
  return a;
}

void CallLinear(Isa isa, DType format, const LinearArgs& args) {
  MakeKernelTable(isa).linear[static_cast<int>(format)](args);
}

std::string Case(Isa isa, const Matrix& x, const Matrix& w) {
  return std::string(Name(isa)) + " x " + std::string(Name(x.type)) + " w " +
         std::string(Name(w.type)) + " K " + std::to_string(x.cols);
}

struct Expected {
  std::vector<double> y, tolerance;
};

Expected Naive(const Matrix& x, const Matrix& w) {
  Expected e;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      const test::DotResult dot = test::Dot(x, t, w, n);
      e.y.push_back(dot.sum);
      e.tolerance.push_back(test::SumTolerance(x.cols) * dot.magnitude);
    }
  }
  return e;
}

// The same rows in smaller calls and odd ranges must give the same bits.
void ExpectBatchInvariant(Isa isa, const Matrix& x, const Matrix& w,
                          const std::vector<float>& whole) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17}) {
    if (rows > x.rows) continue;
    const std::int64_t n0 = rows % 5;
    const std::int64_t n1 = w.rows - rows % 3;
    std::vector<float> y(whole.size(), kUntouched);
    LinearArgs a = Args(x, w, y, w.rows);
    a.T = rows;
    a.n0 = n0;
    a.n1 = n1;
    CallLinear(isa, w.type, a);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t n = 0; n < w.rows; ++n) {
        const auto i = static_cast<std::size_t>(t * w.rows + n);
        const float want = t < rows && n >= n0 && n < n1 ? whole[i] : kUntouched;
        ASSERT_EQ(std::memcmp(&y[i], &want, sizeof want), 0)
            << Case(isa, x, w) << " rows " << rows << " t " << t << " n " << n << ": " << y[i]
            << " alone, " << want << " in " << x.rows << " rows";
      }
    }
  }
}

void CheckEveryLevel(std::uint64_t seed, DType x_type, DType format, std::int64_t K, std::int64_t T,
                     std::int64_t N) {
  Random random(seed);
  const Matrix x = test::RandomMatrix(random, x_type, T, K);
  const Matrix w = test::RandomMatrix(random, format, N, K, 101);
  const Expected expected = Naive(x, w);
  for (const Isa isa : SupportedIsas()) {
    std::vector<float> y(static_cast<std::size_t>(T * N), kUntouched);
    CallLinear(isa, format, Args(x, w, y, N));
    EXPECT_TRUE(test::AllWithin(y, expected.y, expected.tolerance)) << Case(isa, x, w);
    ExpectBatchInvariant(isa, x, w, y);
  }
}

TEST(Linear, IsRightAndBatchInvariantForAnyK) {
  for (const DType x_type : kXTypes) {
    for (const DType format : kFormats) {
      for (const std::int64_t K : {1, 15, 16, 17, 31, 33, 127, 128, 129, 255, 257, 1408}) {
        CheckEveryLevel(static_cast<std::uint64_t>(K), x_type, format, K, 19, 53);
      }
    }
  }
}

TEST(Linear, IsRightAndBatchInvariantForDeepSeekShapes) {
  for (const DType x_type : kXTypes) {
    for (const DType format : kFormats) {
      CheckEveryLevel(2048, x_type, format, 2048, 130, 26);
      CheckEveryLevel(7168, x_type, format, 7168, 17, 26);
    }
  }
}

TEST(Linear, OfNothingIsZeroOrUntouched) {
  Random random(3);
  const Matrix x = test::RandomMatrix(random, DType::kF32, 6, 0);
  for (const Isa isa : SupportedIsas()) {
    for (const DType format : kFormats) {
      const Matrix w = test::MakeMatrix(format, 4, 0);
      std::vector<float> y(24, kUntouched);
      LinearArgs a = Args(x, w, y, 4);
      CallLinear(isa, format, a);
      EXPECT_EQ(y, std::vector<float>(24, 0.0F)) << Case(isa, x, w);
      a.T = 0;
      y.assign(24, kUntouched);
      CallLinear(isa, format, a);
      EXPECT_EQ(y, std::vector<float>(24, kUntouched));
    }
  }
}

// Gathered rows, scattered results with shared targets: equal to one call per row, bit for bit.
void CheckRowLists(Isa isa, DType format, bool accumulate, const std::vector<std::int32_t>& x_rows,
                   const std::vector<std::int32_t>& y_rows) {
  Random random(11);
  const Matrix x = test::RandomMatrix(random, DType::kF32, 9, 200);
  const Matrix w = test::RandomMatrix(random, format, 31, 200);
  const std::vector<float> start = random.Uniforms(9 * 31, -1, 1);
  std::vector<float> together = start;
  std::vector<float> alone = start;
  LinearArgs a = Args(x, w, together, 31);
  a.accumulate = accumulate;
  a.T = static_cast<std::int64_t>(x_rows.size());
  a.x_rows = x_rows.data();
  a.y_rows = y_rows.data();
  CallLinear(isa, format, a);
  for (std::size_t i = 0; i < x_rows.size(); ++i) {
    LinearArgs one = Args(x, w, alone, 31);
    one.accumulate = accumulate;
    one.T = 1;
    one.x = static_cast<const float*>(x.data()) + x_rows[i] * 200;
    one.y = alone.data() + y_rows[i] * 31;
    CallLinear(isa, format, one);
  }
  EXPECT_EQ(together, alone) << Case(isa, x, w) << " T " << x_rows.size();
}

TEST(Linear, RowListsAndAccumulateEqualSeparateCalls) {
  for (const Isa isa : SupportedIsas()) {
    for (const DType format : kFormats) {
      CheckRowLists(isa, format, true, {3, 3, 8}, {1, 1, 1});
      CheckRowLists(isa, format, true, {8, 0, 3, 3, 5, 1, 7}, {0, 8, 8, 2, 0, 0, 4});
      CheckRowLists(isa, format, false, {8, 0, 3, 3, 5, 1, 7}, {0, 8, 1, 2, 3, 5, 4});
      CheckRowLists(isa, format, false, {2, 6}, {7, 0});
    }
  }
}

// vdpbf16ps takes a subnormal bf16 for zero; no other kernel may.
double ValueOf(Isa isa, DType x_type, DType format, double value) {
  const bool flushes = isa >= Isa::kAvx512Bf16 && x_type == DType::kBF16 && format == DType::kBF16;
  return flushes && std::abs(value) < std::numeric_limits<float>::min() ? 0 : value;
}

// Every finite code of a format, found by unit vectors of x: decoding is exact in all forms.
void CheckEveryCode(Isa isa, DType x_type, DType format) {
  constexpr std::int64_t kK = 32;
  const std::int64_t codes = format == DType::kF8E4M3 ? 256 : 65536;
  const std::int64_t rows = codes / kK;
  Matrix w = test::MakeMatrix(format, rows, kK);
  for (std::int64_t i = 0; i < codes; ++i) {
    const auto code = static_cast<std::uint16_t>(i);
    const std::size_t size = BytesOf(format);
    std::memcpy(w.bytes.data() + static_cast<std::size_t>(i) * size, &code, size);
    const double value = w.At(i / kK, i % kK);
    if (!(std::abs(value) < 1e39)) w.Set(i / kK, i % kK, 0);  // 0 * inf would hide its row
  }
  Matrix x = test::MakeMatrix(x_type, kK, kK);
  for (std::int64_t k = 0; k < kK; ++k) x.Set(k, k, 1);
  std::vector<float> y(static_cast<std::size_t>(kK * rows));
  for (const std::int64_t T : {std::int64_t{1}, std::int64_t{4}, std::int64_t{8}, kK}) {
    for (std::int64_t t = 0; t < kK; t += T) {
      LinearArgs a = Args(x, w, y, rows);
      a.T = T;
      a.x = x.bytes.data() + static_cast<std::size_t>(t * kK) * BytesOf(x_type);
      a.y = y.data() + t * rows;
      CallLinear(isa, format, a);
    }
    for (std::int64_t i = 0; i < codes; ++i) {
      const float got = y[static_cast<std::size_t>(i % kK * rows + i / kK)];
      ASSERT_EQ(got, ValueOf(isa, x_type, format, w.At(i / kK, i % kK)))
          << Case(isa, x, w) << " T " << T << " code " << i;
    }
  }
}

TEST(Linear, DecodesEveryCodeExactly) {
  for (const Isa isa : SupportedIsas()) {
    for (const DType format : {DType::kBF16, DType::kF16, DType::kF8E4M3}) {
      for (const DType x_type : kXTypes) CheckEveryCode(isa, x_type, format);
    }
  }
}

LinearTransposedArgs TransposedArgs(const Matrix& x, const Matrix& w, std::vector<float>& y,
                                    std::int64_t n0) {
  LinearTransposedArgs a;
  a.x = static_cast<const float*>(x.data());
  a.x_stride = x.cols;
  a.w = w.data();
  a.w_scale = w.scales.data();
  a.scale_stride = w.scale_stride;
  a.scale_row0 = w.scale_row0;
  a.y = y.data();
  a.y_stride = w.cols;
  a.T = x.rows;
  a.n0 = n0;
  a.N = x.cols;
  a.C = w.cols;
  return a;
}

Expected NaiveTransposed(const Matrix& x, const Matrix& w, std::int64_t n0) {
  Expected e;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t c = 0; c < w.cols; ++c) {
      double sum = 0;
      double magnitude = 0;
      for (std::int64_t n = 0; n < x.cols; ++n) {
        const double term = x.At(t, n) * w.At(n0 + n, c);
        sum += term;
        magnitude += std::abs(term);
      }
      e.y.push_back(sum);
      e.tolerance.push_back(test::SumTolerance(x.cols) * magnitude);
    }
  }
  return e;
}

void CheckTransposed(DType format, std::int64_t T, std::int64_t N, std::int64_t C) {
  Random random(static_cast<std::uint64_t>(N * C + T));
  const std::int64_t n0 = 5;
  const Matrix x = test::RandomMatrix(random, DType::kF32, T, N);
  const Matrix w = test::RandomMatrix(random, format, n0 + N, C, 77);
  const Expected expected = NaiveTransposed(x, w, n0);
  for (const Isa isa : SupportedIsas()) {
    const auto kernel = MakeKernelTable(isa).linear_transposed[static_cast<int>(format)];
    std::vector<float> y(static_cast<std::size_t>(T * C), kUntouched);
    kernel(TransposedArgs(x, w, y, n0));
    EXPECT_TRUE(test::AllWithin(y, expected.y, expected.tolerance))
        << Case(isa, x, w) << " T " << T << " C " << C;
    std::vector<float> alone(y.size());
    for (std::int64_t t = 0; t < T; ++t) {
      LinearTransposedArgs one = TransposedArgs(x, w, alone, n0);
      one.T = 1;
      one.x += t * N;
      one.y += t * C;
      kernel(one);
    }
    EXPECT_EQ(y, alone) << Case(isa, x, w) << ": rows alone differ";
  }
}

TEST(LinearTransposed, IsRightAndBatchInvariant) {
  for (const DType format : kFormats) {
    for (const std::int64_t C : {1, 7, 16, 17, 100, 129, 512}) CheckTransposed(format, 6, 33, C);
    CheckTransposed(format, 1, 128, 512);
    CheckTransposed(format, 9, 1, 130);
  }
}

}  // namespace
}  // namespace tandem::cpu
