// ctest: opencl
// linear_batch.cl, which needs matrix units. What it computes exactly is known: x and the weights
// in bf16 (FP8's codes with their scales applied in f32), so the reference rounds both as it does
// and the tolerance is that of sums in f32.
#include <gtest/gtest.h>

#include <memory>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::TestWeight;

constexpr DType kFormats[] = {DType::kBF16, DType::kF8E4M3, DType::kF16,  DType::kF32,
                              DType::kQ8_0, DType::kQ4_0,   DType::kQ5_0, DType::kMXFP4,
                              DType::kQ4_K, DType::kQ5_K,   DType::kQ6_K};
constexpr float kEps = 1e-3F;

double Rounded(double value) { return Bf16ToF32(F32ToBf16(static_cast<float>(value))); }
double Silu(double v) { return v / (1 + std::exp(-v)); }

struct Case {
  std::int64_t T, N, K;
  std::int64_t N2 = 0;
  std::int64_t x_offset = 0, x_pad = 0;
  bool accumulate = false, swiglu = false, norm = false;
};

class LinearBatch : public test::ClTest {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    if (cl::TraitsOf(device()).nv_compute < 80) {
      GTEST_SKIP() << device().info().name << " has no mma.sync";
    }
  }

  // Shared by the tests, because compiling takes longer than running.
  cl::Kernels& kernels() {
    static std::unique_ptr<cl::Kernels> kernels;
    if (!kernels) {
      cl::DeviceTraits traits = cl::TraitsOf(device());
      traits.batch_rows_min = 1;
      traits.batch_rows_max = 64;
      kernels = std::make_unique<cl::Kernels>(device(), "", traits);
    }
    return *kernels;
  }

  static TestWeight Weights(DType dtype, std::int64_t rows, std::int64_t cols, unsigned seed) {
    TestWeight w = test::MakeWeight(dtype, rows, cols, seed);
    if (dtype == DType::kF8E4M3) return w;
    for (double& v : w.values) v = Rounded(v);
    return w;
  }

  static test::Reference Dot(const float* x, const TestWeight& w, std::int64_t n) {
    test::Reference r;
    for (std::int64_t k = 0; k < w.cols; ++k) r.Add(Rounded(x[k]), w.values[n * w.cols + k]);
    return r;
  }

  static test::Reference Gated(const test::Reference& gate, const test::Reference& up) {
    const double opened = Silu(gate.value);
    return {opened * up.value, 1.1 * gate.size * std::fabs(up.value) + std::fabs(opened) * up.size +
                                   gate.size * up.size * 1e-5};
  }

  void Check(DType dtype, const Case& c) {
    const TestWeight w = Weights(dtype, c.N, c.K, 7);
    const TestWeight w2 = Weights(dtype, std::max<std::int64_t>(c.N2, 1), c.K, 9);
    const std::int64_t stride = c.K + c.x_pad;
    const auto x = test::RandomFloats(static_cast<std::size_t>(c.x_offset + c.T * stride), 11);
    const auto y0 = test::RandomFloats(static_cast<std::size_t>(1 + c.T * (c.N + 1)), 13);
    test::WeightBlob blob;
    cl::LinearArgs a;
    a.w = blob.Add(w);
    if (c.N2 > 0) a.w2 = blob.Add(w2);
    const ClBuffer weights = blob.Upload(device());
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer ys = test::Upload(device(), y0);
    // One more row, which must stay as it is.
    const ClBuffer y2s = test::Upload(device(), std::vector<float>((c.T + 1) * (c.N2 + 1), -5.0F));
    const ClBuffer norm_w = test::Upload(device(), test::RandomFloats(c.K, 12));
    const ClBuffer normed = test::Upload(device(), std::vector<float>(c.T * c.K));
    a.w.buffer = weights.get();
    if (c.N2 > 0) a.w2.buffer = weights.get();
    a.x = {xs.get(), c.x_offset};
    a.x_stride = stride;
    a.y = {ys.get(), 1};
    a.y_stride = c.N + 1;
    a.y2 = {y2s.get(), 0};
    a.y2_stride = c.N2 + 1;
    a.T = c.T;
    a.accumulate = c.accumulate;
    a.swiglu = c.swiglu;
    a.bf16 = true;
    if (c.norm) a.norm = {{norm_w.get(), 0}, kEps, {normed.get(), 0}, c.K};
    kernels().Linear(a);
    const auto y = test::Download<float>(device(), ys, y0.size());
    const auto y2 = test::Download<float>(device(), y2s, (c.T + 1) * (c.N2 + 1));
    const auto after_norm = test::Download<float>(device(), normed, c.T * c.K);
    test::Worst worst;
    const double factor = test::DotFactor(c.K);
    for (std::int64_t t = 0; t < c.T; ++t) {
      const float* const row =
          c.norm ? after_norm.data() + t * c.K : x.data() + c.x_offset + t * stride;
      for (std::int64_t n = 0; n < c.N; ++n) {
        const std::int64_t at = 1 + t * (c.N + 1) + n;
        test::Reference want = Dot(row, w, n);
        if (c.swiglu) want = Gated(want, Dot(row, w2, n));
        if (c.accumulate) want.Add(y0[at], 1);
        worst.See(y[at], want, factor, t, n);
      }
      EXPECT_EQ(y[t * (c.N + 1)], y0[t * (c.N + 1)]) << "wrote between the rows of y";
      for (std::int64_t n = 0; n < c.N2 && !c.swiglu; ++n) {
        worst.See(y2[t * (c.N2 + 1) + n], Dot(row, w2, n), factor, t, n);
      }
    }
    EXPECT_EQ(y2.back(), -5.0F);
    EXPECT_TRUE(worst.Verdict()) << Name(dtype) << " T " << c.T << " N " << c.N << " + " << c.N2
                                 << " K " << c.K << " offset " << c.x_offset << " norm " << c.norm
                                 << " swiglu " << c.swiglu << " accumulate " << c.accumulate;
  }
};

TEST_F(LinearBatch, RowCounts) {
  for (const DType dtype : kFormats) {
    for (const std::int64_t T : {1, 3, 4, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33}) {
      Check(dtype, {T, 70, 768});
    }
  }
}

// Of the columns: steps, chunks of x and, for FP8, scales; of the rows: tiles and work-groups.
TEST_F(LinearBatch, Remainders) {
  for (const DType dtype : kFormats) {
    const std::int64_t least = std::max<std::int64_t>(
        dtype == DType::kF8E4M3 ? 16 : 8, static_cast<std::int64_t>(BlockElements(dtype)));
    for (const std::int64_t runs : {1, 2, 3, 5, 9, 17, 33, 65, 129}) {
      if (runs * least > 2200) continue;
      Check(dtype, {3, 19, runs * least});
      Check(dtype, {13, 19, runs * least});
      Check(dtype, {29, 19, runs * least});
    }
    for (const std::int64_t N : {1, 15, 16, 17, 31, 32, 33, 127, 129, 300}) {
      Check(dtype, {5, N, 256});
      Check(dtype, {19, N, 256});
    }
  }
}

// So many rows of weights that fewer warps share each of them, down to none.
TEST_F(LinearBatch, ManyWeightRows) {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kQ4_K}) {
    for (const std::int64_t N : {6500, 13005, 26009}) {
      for (const std::int64_t T : {3, 12, 20}) Check(dtype, {T, N, 256});
    }
  }
}

TEST_F(LinearBatch, LongRows) {
  for (const DType dtype : kFormats) {
    for (const std::int64_t T : {4, 16, 31}) Check(dtype, {T, 40, 7168});
  }
}

TEST_F(LinearBatch, OffsetsStridesAndAccumulate) {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kMXFP4}) {
    for (const std::int64_t T : {4, 11, 19}) {
      Check(dtype, {T, 40, 160, 0, 3, 5, true});
      Check(dtype, {T, 40, 160, 0, 4, 8, true});
    }
  }
}

TEST_F(LinearBatch, TwoMatricesSwigluAndNorm) {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kQ6_K}) {
    for (const std::int64_t T : {3, 8, 18, 31}) {
      Check(dtype, {T, 37, 512, 70});
      Check(dtype, {T, 300, 512, 5, 0, 0, true, false, true});
      Check(dtype, {T, 67, 512, 67, 0, 0, false, true});
      Check(dtype, {T, 300, 512, 300, 0, 0, true, true, true});
    }
    Check(dtype, {6, 3300, 256, 3300, 0, 0, false, true});
    Check(dtype, {6, 13000, 256, 9000});
  }
}

// Each row's sums are made alike whatever rows are beside it, as long as they are as many eights.
TEST_F(LinearBatch, ARowDoesNotDependOnTheOthers) {
  const TestWeight w = test::MakeWeight(DType::kF8E4M3, 300, 528, 3);
  const auto x = test::RandomFloats(16 * 528, 5);
  test::WeightBlob blob;
  cl::LinearArgs a;
  a.w = blob.Add(w);
  const ClBuffer weights = blob.Upload(device());
  const ClBuffer xs = test::Upload(device(), x);
  const ClBuffer ys = test::Upload(device(), std::vector<float>(16 * 300));
  a.w.buffer = weights.get();
  a.x = {xs.get(), 0};
  a.x_stride = 528;
  a.y = {ys.get(), 0};
  a.y_stride = 300;
  a.bf16 = true;
  a.T = 16;
  kernels().Linear(a);
  const auto all = test::Download<float>(device(), ys, 16 * 300);
  a.T = 9;
  kernels().Linear(a);
  const auto some = test::Download<float>(device(), ys, 9 * 300);
  for (std::size_t i = 0; i < some.size(); ++i) ASSERT_EQ(some[i], all[i]) << i;
}

}  // namespace
}  // namespace tandem
