// ctest: opencl
#include <gtest/gtest.h>

#include <tuple>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::ClShapesTest;
using test::Shapes;
using test::TestWeight;

struct Case {
  std::int64_t T, N, K;
  std::int64_t x_offset = 0, x_pad = 0;
  bool accumulate = false;
};

class LinearTest : public ClShapesTest {
 protected:
  std::vector<float> Run(const Case& c, const TestWeight& w, const std::vector<float>& x,
                         const std::vector<float>& y0) {
    test::WeightBlob blob;
    cl::LinearArgs a;
    a.w = blob.Add(w);
    const ClBuffer weights = blob.Upload(device());
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer ys = test::Upload(device(), y0);
    a.w.buffer = weights.get();
    a.x = {xs.get(), c.x_offset};
    a.x_stride = c.K + c.x_pad;
    a.y = {ys.get(), 1};
    a.y_stride = c.N + 1;
    a.T = c.T;
    a.accumulate = c.accumulate;
    kernels().Linear(a);
    return test::Download<float>(device(), ys, y0.size());
  }

  static std::vector<float> Rows(const Case& c, unsigned seed) {
    return test::RandomFloats(static_cast<std::size_t>(c.x_offset + c.T * (c.K + c.x_pad)), seed);
  }

  void Check(DType dtype, const Case& c) {
    const TestWeight w = test::MakeWeight(dtype, c.N, c.K, 7);
    const std::vector<float> x = Rows(c, 11);
    const auto y0 = test::RandomFloats(static_cast<std::size_t>(1 + c.T * (c.N + 1)), 13);
    const std::vector<float> y = Run(c, w, x, y0);
    test::Worst worst;
    for (std::int64_t t = 0; t < c.T; ++t) {
      for (std::int64_t n = 0; n < c.N; ++n) {
        const std::int64_t at = 1 + t * (c.N + 1) + n;
        test::Reference want;
        if (c.accumulate) want.Add(y0[at], 1);
        for (std::int64_t k = 0; k < c.K; ++k) {
          want.Add(x[c.x_offset + t * (c.K + c.x_pad) + k], w.values[n * c.K + k]);
        }
        worst.See(y[at], want, test::DotFactor(c.K), t, n);
      }
      EXPECT_EQ(y[t * (c.N + 1)], y0[t * (c.N + 1)]) << "wrote between the rows of y";
    }
    EXPECT_TRUE(worst.Verdict()) << Name(dtype) << " T " << c.T << " N " << c.N << " K " << c.K;
  }
};

TEST_P(LinearTest, RowCounts) {
  for (const DType dtype : Formats()) {
    for (const std::int64_t T : {1, 2, 3, 5, 8, 16, 17, 64}) Check(dtype, {T, 70, 272});
  }
  if (slow_to_compile()) Check(DType::kBF16, {1, 70, 272});
}

TEST_P(LinearTest, Remainders) {
  for (const DType dtype : Formats()) {
    for (const std::int64_t K : {1, 7, 8, 9, 15, 16, 17, 127, 128, 129, 255, 257}) {
      Check(dtype, {3, 5, K});
      Check(dtype, {18, 5, K});
    }
    for (const std::int64_t N : {1, 31, 32, 33, 127, 128, 129}) {
      Check(dtype, {1, N, 64});
      Check(dtype, {20, N, 64});
    }
  }
}

// Blocks of 32 or 256 values, rows of one block and more, and N that no team's rows divide.
TEST_P(LinearTest, BlockFormats) {
  for (const DType dtype : BlockFormats()) {
    const std::int64_t block = BlockElements(dtype);
    for (const std::int64_t blocks : {1, 3, 8, 9}) Check(dtype, {1, 37, blocks * block});
    for (const std::int64_t N : {1, 33, 129}) Check(dtype, {1, N, 2 * block, 3, 5, true});
    Check(dtype, {1, 8, 7168});
    if (slow_to_compile()) continue;  // the forms for more rows: F8
    for (const std::int64_t T : {2, 3, 8, 18}) Check(dtype, {T, 37, 9 * block});
    Check(dtype, {8, 70, 1536});
  }
}

// Columns by 256, or 128 of eight-bit codes, of one row: one_row_mma.cl, where a device has it.
TEST_P(LinearTest, OneRowOfSmallCodes) {
  for (const DType dtype :
       {DType::kF8E4M3, DType::kQ8_0, DType::kQ4_0, DType::kMXFP4, DType::kQ4_K}) {
    if (GetParam() != Shapes::kOwn && dtype != DType::kQ4_K) continue;
    for (const std::int64_t N : {1, 7, 16, 33, 130}) Check(dtype, {1, N, 768});
    for (const std::int64_t K : {256, 512, 2048, 2304, 7168}) Check(dtype, {1, 41, K, 4, 0, true});
    Check(dtype, {1, 10, 14592});  // more than local memory holds, twice: parts of the columns
    Check(dtype, {1, 10, 16384});  // and the last span is shorter
    Check(dtype, {1, 1100, 14848, 4, 0, true});
    if (GetParam() == Shapes::kOwn) Check(dtype, {1, 40000, 256});
    if (dtype != DType::kF8E4M3 && dtype != DType::kQ8_0) continue;
    for (const std::int64_t K : {128, 1408, 7296}) Check(dtype, {1, 41, K, 4, 0, true});
  }
}

TEST_P(LinearTest, OffsetsStridesAndAccumulate) {
  for (const DType dtype : Formats()) {
    for (const std::int64_t T : {1, 4, 19}) {
      Check(dtype, {T, 40, 160, 3, 5, true});
      Check(dtype, {T, 40, 160, 4, 8, true});
    }
  }
}

TEST_P(LinearTest, DeepSeekShapes) {
  for (const DType dtype : Formats()) {
    Check(dtype, {1, 40, 7168});
    Check(dtype, {2, 24, 2048});
    Check(dtype, {17, 24, 1408});
    Check(dtype, {1, 1408, 512});
  }
}

TEST_P(LinearTest, ARowDoesNotDependOnTheOthers) {
  for (const DType dtype : Formats()) {
    Case c{16, 300, 528};
    const TestWeight w = test::MakeWeight(dtype, c.N, c.K, 3);
    const std::vector<float> x = Rows(c, 5);
    const std::vector<float> y0(static_cast<std::size_t>(1 + c.T * (c.N + 1)));
    const std::vector<float> all = Run(c, w, x, y0);
    // On a GPU the form for one, two, four or eight rows decides how teams share a weight row.
    const bool one_order = GetParam() == Shapes::kCpu;
    for (const std::int64_t T : {1, 2, 3, 5, 8}) {
      if (!one_order && T <= 4) continue;
      c.T = T;
      const std::vector<float> some = Run(c, w, x, y0);
      for (std::int64_t i = 1; i < T * (c.N + 1); ++i) ASSERT_EQ(some[i], all[i]) << Name(dtype);
    }
  }
}

// A norm before, a second matrix beside, SwiGLU between: against the same in double precision.
// Which form ran shows in the order of its sums.
class FewRowsFillTest : public test::ClTest {
 protected:
  std::vector<float> Run(std::int64_t few_rows_max, bool fill, std::int64_t T, std::int64_t N) {
    constexpr std::int64_t K = 272;
    cl::DeviceTraits traits = cl::CpuTraits(4);
    traits.few_rows_max = few_rows_max;
    traits.few_rows_fill = fill;
    cl::Kernels kernels(device(), "", traits);
    const auto count = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    const ClBuffer w = test::Upload(device(), test::RandomFloats(count(N * K), 7));
    const ClBuffer x = test::Upload(device(), test::RandomFloats(count(T * K), 11));
    const ClBuffer y = device().Allocate(count(T * N) * sizeof(float));
    kernels.Linear(
        {{x.get(), 0}, K, {w.get(), 0, 0, DType::kF32, N, K}, {y.get(), 0}, N, T, false});
    return test::Download<float>(device(), y, count(T * N));
  }
};

TEST_F(FewRowsFillTest, TilesServeOnlyWhereTheyFillTheDevice) {
  const std::int64_t units = device().info().compute_units;
  for (const auto& [T, N, few_serves] :
       {std::tuple{8L, 64L, true}, {64L, 128 * units, false}, {40L, 48L, true}}) {
    const std::vector<float> few = Run(INT64_MAX, false, T, N);
    const std::vector<float> tiles = Run(4, false, T, N);
    ASSERT_NE(few, tiles);
    EXPECT_EQ(Run(4, true, T, N), few_serves ? few : tiles) << T << " x " << N;
  }
}

struct Fused {
  std::int64_t T, N, N2, K;
  bool norm = false, swiglu = false, accumulate = false;
};

class FusedLinearTest : public ClShapesTest {
 protected:
  static double Silu(double v) { return v / (1 + std::exp(-v)); }

  // Row t of x after the norm, and by how much a computed x' may miss it, relatively.
  static std::vector<double> Normed(const Fused& c, const float* x, const std::vector<float>& w) {
    std::vector<double> out(x, x + c.K);
    if (!c.norm) return out;
    double squares = 0;
    for (const double v : out) squares += v * v;
    for (std::int64_t k = 0; k < c.K; ++k) {
      out[k] *= w[k] / std::sqrt(squares / static_cast<double>(c.K) + kEps);
    }
    return out;
  }

  static test::Reference Dot(const std::vector<double>& x, const TestWeight& w, std::int64_t n) {
    test::Reference r;
    for (std::int64_t k = 0; k < w.cols; ++k) r.Add(x[k], w.values[n * w.cols + k]);
    return r;
  }

  void Check(DType dtype, DType dtype2, const Fused& c) {
    const TestWeight w = test::MakeWeight(dtype, c.N, c.K, 7);
    const TestWeight w2 = test::MakeWeight(dtype2, c.N2, c.K, 9);
    const auto x = test::RandomFloats(static_cast<std::size_t>(c.T * c.K), 11);
    const auto norm_w = test::RandomFloats(static_cast<std::size_t>(c.K), 12);
    const auto y0 = test::RandomFloats(static_cast<std::size_t>(c.T * c.N), 13);
    test::WeightBlob blob;
    cl::LinearArgs a;
    a.w = blob.Add(w);
    if (c.N2 > 0) a.w2 = blob.Add(w2);
    const ClBuffer weights = blob.Upload(device());
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer norm_ws = test::Upload(device(), norm_w);
    const ClBuffer ys = test::Upload(device(), y0);
    // One more row, which must stay as it is.
    const ClBuffer y2s = test::Upload(device(), std::vector<float>((c.T + 1) * (c.N2 + 1), -5.0F));
    const ClBuffer normed = test::Upload(device(), std::vector<float>((c.T + 1) * c.K, -5.0F));
    a.w.buffer = weights.get();
    if (c.N2 > 0) a.w2.buffer = weights.get();
    a.x = {xs.get(), 0};
    a.x_stride = c.K;
    a.y = {ys.get(), 0};
    a.y_stride = c.N;
    a.T = c.T;
    a.accumulate = c.accumulate;
    a.swiglu = c.swiglu;
    a.y2 = {y2s.get(), 0};
    a.y2_stride = c.N2 + 1;
    if (c.norm) a.norm = {{norm_ws.get(), 0}, kEps, {normed.get(), 0}, c.K};
    kernels().Linear(a);
    const auto y = test::Download<float>(device(), ys, y0.size());
    const auto y2 = test::Download<float>(device(), y2s, (c.T + 1) * (c.N2 + 1));
    const auto x2 = test::Download<float>(device(), normed, (c.T + 1) * c.K);
    // x' is some roundings off, each term of a product with it.
    const double factor = test::DotFactor(c.K) + (c.norm ? 8 : 0);
    test::Worst worst;
    for (std::int64_t t = 0; t < c.T; ++t) {
      const std::vector<double> row = Normed(c, x.data() + t * c.K, norm_w);
      for (std::int64_t k = 0; c.norm && k < c.K; ++k) {
        worst.See(x2[t * c.K + k], {row[k], std::fabs(row[k])}, 8, t, k);
      }
      for (std::int64_t n = 0; n < c.N; ++n) {
        test::Reference want = Dot(row, w, n);
        if (c.swiglu) {
          const test::Reference up = Dot(row, w2, n);
          const double gate = Silu(want.value);
          want.size = 1.1 * want.size * std::fabs(up.value) + std::fabs(gate) * up.size +
                      want.size * up.size * 1e-5;
          want.value = gate * up.value;
        }
        if (c.accumulate) want.Add(y0[t * c.N + n], 1);
        worst.See(y[t * c.N + n], want, factor, t, n);
      }
      for (std::int64_t n = 0; n < c.N2 && !c.swiglu; ++n) {
        worst.See(y2[t * (c.N2 + 1) + n], Dot(row, w2, n), factor, t, n);
      }
    }
    EXPECT_EQ(x2.back(), -5.0F);
    EXPECT_EQ(y2.back(), -5.0F);
    EXPECT_TRUE(worst.Verdict()) << Name(dtype) << " T " << c.T << " N " << c.N << " + " << c.N2
                                 << " K " << c.K << " norm " << c.norm << " swiglu " << c.swiglu;
  }

  static constexpr float kEps = 1e-3F;
};

TEST_P(FusedLinearTest, NormBefore) {
  for (const std::int64_t T : {1, 2, 3, 18}) {
    Check(DType::kF8E4M3, DType::kF8E4M3, {T, 37, 0, 272, true});
    Check(DType::kF8E4M3, DType::kF8E4M3, {T, 9, 0, 141, true, false, true});
  }
  Check(DType::kQ4_K, DType::kQ4_K, {1, 37, 0, 512, true});
  Check(DType::kF8E4M3, DType::kF8E4M3, {1, 24, 0, 16384, true});
}

TEST_P(FusedLinearTest, TwoMatrices) {
  for (const std::int64_t T : {1, 2, 5, 18}) {
    Check(DType::kF8E4M3, DType::kF8E4M3, {T, 37, 70, 272});
    Check(DType::kF8E4M3, DType::kF8E4M3, {T, 130, 5, 272, true, false, true});
  }
  Check(DType::kF8E4M3, DType::kQ4_K, {1, 17, 18, 256, true});
  Check(DType::kF8E4M3, DType::kF8E4M3, {1, 300, 140, 14592});
}

TEST_P(FusedLinearTest, SwigluBetween) {
  for (const std::int64_t T : {1, 2, 3, 18}) {
    Check(DType::kF8E4M3, DType::kF8E4M3, {T, 67, 67, 272, false, true});
    Check(DType::kF8E4M3, DType::kF8E4M3, {T, 67, 67, 272, true, true, true});
  }
  Check(DType::kQ4_K, DType::kQ4_K, {1, 67, 67, 256, true, true, true});
  Check(DType::kF8E4M3, DType::kF8E4M3, {1, 40, 40, 7424, false, true});
}

TEST_P(LinearTest, NoRowsIsNoWork) {
  const TestWeight w = test::MakeWeight(DType::kBF16, 4, 16, 3);
  const std::vector<float> y0(16, 2.0F);
  EXPECT_EQ(Run({0, 4, 16}, w, std::vector<float>(16), y0), y0);
}

INSTANTIATE_TEST_SUITE_P(Shapes, FusedLinearTest,
                         ::testing::Values(Shapes::kCpu, Shapes::kGpu, Shapes::kOwn),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest,
                         ::testing::Values(Shapes::kCpu, Shapes::kGpu, Shapes::kOwn),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
