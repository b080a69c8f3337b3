// ctest: opencl
// What goes through W_UK and W_UV, head by head.
#include <numeric>

#include "tests/support/mla_fixture.h"

namespace tandem {
namespace {

using test::Reference;
using test::Roped;
using test::Rotations;
using test::Shapes;
using test::Whole;
using test::Worst;

struct HeadsCase {
  std::int64_t H, R, d, nope, dv;
  DType type;
  bool joined = true;  // kv_b, else k_b and v_b
};

class MlaHeadsTest : public test::MlaTest {
 protected:
  void Prepare(const HeadsCase& c) {
    test::WeightBlob blob;
    weights_ = {};
    if (c.joined) {
      k_ = v_ = test::MakeWeight(c.type, c.H * (c.nope + c.dv), c.R, 3);
      weights_.kv_b = blob.Add(k_);
    } else {
      k_ = test::MakeWeight(c.type, c.H * c.R, c.nope, 3);
      v_ = test::MakeWeight(c.R % BlockElements(c.type) == 0 ? c.type : DType::kBF16, c.H * c.dv,
                            c.R, 4);
      weights_.k_b = blob.Add(k_);
      weights_.v_b = blob.Add(v_);
    }
    buffer_ = blob.Upload(device());
    for (cl::Weight* w : {&weights_.kv_b, &weights_.k_b, &weights_.v_b}) {
      if (w->rows > 0) w->buffer = buffer_.get();
    }
  }

  // W_UK[h][n, r] and W_UV[h][n, r].
  double Uk(const HeadsCase& c, std::int64_t h, std::int64_t n, std::int64_t r) const {
    const std::int64_t at =
        c.joined ? (h * (c.nope + c.dv) + n) * c.R + r : (h * c.R + r) * c.nope + n;
    return k_.values[static_cast<std::size_t>(at)];
  }
  double Uv(const HeadsCase& c, std::int64_t h, std::int64_t n, std::int64_t r) const {
    const std::int64_t row = c.joined ? h * (c.nope + c.dv) + c.nope + n : h * c.dv + n;
    return v_.values[static_cast<std::size_t>(row * c.R + r)];
  }

  std::vector<float> Query(const HeadsCase& c, std::int64_t T) {
    const ClBuffer q = test::Upload(device(), q_);
    const ClBuffer cos_sin = test::Upload(device(), cos_sin_);
    const std::size_t count = static_cast<std::size_t>(T * c.H * (c.R + c.d));
    const ClBuffer y = test::Upload(device(), std::vector<float>(count, 1e30F));
    cl::MlaQueryArgs a{Whole(q), QStride(c), weights_, Whole(cos_sin), Whole(y), T,
                       c.H,      c.R,        c.d,      c.nope,         c.dv};
    kernels().MlaQuery(a);
    return test::Download<float>(device(), y, count);
  }
  static std::int64_t QStride(const HeadsCase& c) { return c.H * (c.nope + c.d) + 5; }

  void CheckQuery(const HeadsCase& c, std::int64_t T) {
    Prepare(c);
    q_ = test::RandomFloats(static_cast<std::size_t>(T * QStride(c)), 5);
    cos_sin_ = Rotations(T, c.d);
    const std::vector<float> y = Query(c, T);
    Worst worst;
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t h = 0; h < c.H; ++h) {
        const float* q = q_.data() + t * QStride(c) + h * (c.nope + c.d);
        const float* got = y.data() + (t * c.H + h) * (c.R + c.d);
        for (std::int64_t r = 0; r < c.R + c.d; ++r) {
          Reference want;
          for (std::int64_t n = 0; r < c.R && n < c.nope; ++n) want.Add(q[n], Uk(c, h, n, r));
          if (r >= c.R) want = Roped(q + c.nope, cos_sin_.data() + t * c.d, r - c.R);
          worst.See(got[r], want, test::DotFactor(c.nope), t, h * (c.R + c.d) + r);
        }
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "query " << c.H << " heads of " << c.R << " " << Name(c.type)
                                 << (c.joined ? " kv_b" : " k_b") << " T " << T;
    const std::vector<float> one = Query(c, 1);
    for (std::size_t i = 0; i < one.size(); ++i) ASSERT_EQ(one[i], y[i]) << i;
  }

  std::vector<float> Output(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
    const ClBuffer parts = test::Upload(device(), parts_);
    const ClBuffer lse = test::Upload(device(), lse_);
    const std::size_t count = static_cast<std::size_t>(T * (c.H * c.dv + 7));
    const ClBuffer out = test::Upload(device(), std::vector<float>(count, 1e30F));
    cl::MlaOutputArgs a{Whole(parts), Whole(lse), splits, weights_, Whole(out), c.H * c.dv + 7, T,
                        c.H,          c.R,        c.nope, c.dv};
    kernels().MlaOutput(a);
    return test::Download<float>(device(), out, count);
  }

  void PrepareParts(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
    parts_ = test::RandomFloats(static_cast<std::size_t>(T * c.H * splits * c.R), 6);
    lse_ = test::RandomFloats(static_cast<std::size_t>(T * c.H * splits), 7, 4.0F);
    for (std::size_t i = 0; i < lse_.size() && splits > 1; ++i) {
      if (i % static_cast<std::size_t>(splits) == 1) {  // an empty run
        lse_[i] = -std::numeric_limits<float>::infinity();
        std::fill_n(parts_.begin() + static_cast<std::ptrdiff_t>(i) * c.R, c.R, 0.0F);
      }
    }
  }

  std::vector<Reference> Merged(const HeadsCase& c, std::int64_t row, std::int64_t splits) const {
    const float* lse = lse_.data() + row * splits;
    const double largest = *std::max_element(lse, lse + splits);
    double total = 0;
    for (std::int64_t s = 0; s < splits; ++s) total += std::exp(lse[s] - largest);
    std::vector<Reference> u(static_cast<std::size_t>(c.R));
    for (std::int64_t s = 0; s < splits; ++s) {
      const double weight = std::exp(lse[s] - largest) / total;
      for (std::int64_t r = 0; r < c.R; ++r) {
        u[static_cast<std::size_t>(r)].Add(weight, parts_[(row * splits + s) * c.R + r]);
      }
    }
    return u;
  }

  void CheckOutput(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
    Prepare(c);
    PrepareParts(c, T, splits);
    const std::vector<float> out = Output(c, T, splits);
    Worst worst;
    for (std::int64_t row = 0; row < T * c.H; ++row) {
      const std::vector<Reference> u = Merged(c, row, splits);
      for (std::int64_t n = 0; n < c.dv; ++n) {
        Reference want;
        for (std::int64_t r = 0; r < c.R; ++r) {
          const double w = Uv(c, row % c.H, n, r);
          want.value += u[static_cast<std::size_t>(r)].value * w;
          want.size += u[static_cast<std::size_t>(r)].size * std::fabs(w);
        }
        const std::int64_t at = row / c.H * (c.H * c.dv + 7) + row % c.H * c.dv + n;
        // exp of numbers up to 8 is within a few units.
        worst.See(out[static_cast<std::size_t>(at)], want, test::DotFactor(c.R) + 8, row, n);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "output " << c.H << " heads of " << c.R << " " << Name(c.type)
                                 << " T " << T << " splits " << splits;
    const std::vector<float> one = Output(c, 1, splits);
    for (std::int64_t i = 0; i < c.H * c.dv; ++i) ASSERT_EQ(one[i], out[i]) << i;
  }

  test::TestWeight k_, v_;
  cl::HeadWeights weights_;
  ClBuffer buffer_;
  std::vector<float> q_, cos_sin_, parts_, lse_;
};

TEST_P(MlaHeadsTest, QueryOfEveryFormat) {
  for (const DType type : Formats()) {
    CheckQuery({3, 512, 64, 128, 128, type}, 1);
    CheckQuery({3, 512, 64, 128, 128, type}, 6);
    CheckQuery({8, 64, 16, 32, 32, type}, 5);
    CheckQuery({2, 256, 16, 128, 64, type, false}, 5);
    CheckQuery({2, 64, 16, 32, 32, type, false}, 2);
  }
}

TEST_P(MlaHeadsTest, OutputOfEveryFormat) {
  for (const DType type : Formats()) {
    CheckOutput({3, 512, 64, 128, 128, type}, 2, 1);
    CheckOutput({3, 512, 64, 128, 128, type}, 2, 5);
    CheckOutput({8, 64, 16, 32, 32, type}, 5, 3);
    CheckOutput({2, 256, 16, 128, 64, type, false}, 5, 2);
  }
}

// weights.cl decodes and has its own tests; here the formats with most parts and with one.
TEST_P(MlaHeadsTest, BlockFormats) {
  std::vector<DType> types{DType::kQ6_K};
  if (!slow_to_compile()) types = {DType::kQ8_0, DType::kQ5_0, DType::kQ4_K, DType::kQ6_K};
  for (const DType type : types) {
    CheckQuery({2, 512, 16, 64, 32, type}, 3);
    CheckQuery({2, 64, 16, 256, 32, type, false}, 3);
    CheckOutput({2, 512, 16, 64, 32, type}, 3, 2);
  }
}

TEST_P(MlaHeadsTest, OddSizes) {
  const DType type = Formats().back();
  CheckQuery({2, 37, 6, 13, 11, type}, 3);
  CheckQuery({2, 37, 6, 13, 11, type, false}, 3);
  CheckOutput({2, 37, 6, 13, 11, type}, 3, 4);
}

TEST_P(MlaHeadsTest, ManySplits) { CheckOutput({1, 64, 16, 32, 32, Formats().back()}, 1, 300); }

constexpr DType kMatrixFormats[] = {DType::kF32,  DType::kBF16, DType::kF16,  DType::kF8E4M3,
                                    DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kMXFP4,
                                    DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// The form of W_UK and W_UV for matrix units against the same sums in double over what it rounds: x
// and the weights to bf16. FP8's weights are rounded with their scales.
class MlaHeadsMmaTest : public MlaHeadsTest {
 protected:
  void SetUp() override {
    MlaHeadsTest::SetUp();
    if (IsSkipped()) return;
    const cl::DeviceTraits traits = cl::TraitsOf(device());
    if (traits.nv_compute < 80) GTEST_SKIP() << device().info().name << " has no mma.sync";
    native_ = std::make_unique<cl::Kernels>(device(), "", traits);
  }
  template <typename T>
  static void RoundAll(std::vector<T>& values) {
    for (T& v : values) v = Bf16ToF32(F32ToBf16(static_cast<float>(v)));
  }
  // A weight of a block format may come out one unit of f32 off and then round the other way: some
  // of a sum's n terms differ by a unit of bf16.
  static double Rounding(DType type, std::int64_t n) {
    if (!IsBlockFormat(type)) return 0;
    return 4 * 0x1p-8 / static_cast<double>(n) /
           static_cast<double>(std::numeric_limits<float>::epsilon());
  }
  void CheckQueryMma(const HeadsCase& c, std::int64_t T, std::int64_t padding);
  void CheckOutputMma(const HeadsCase& c, std::int64_t T, std::int64_t splits);
  std::unique_ptr<cl::Kernels> native_;
};

void MlaHeadsMmaTest::CheckQueryMma(const HeadsCase& c, std::int64_t T, std::int64_t padding) {
  Prepare(c);
  RoundAll(k_.values);
  const std::int64_t stride = c.H * (c.nope + c.d) + padding;
  q_ = test::RandomFloats(static_cast<std::size_t>(T * stride), 5);
  RoundAll(q_);
  cos_sin_ = Rotations(T, c.d);
  const ClBuffer q = test::Upload(device(), q_);
  const ClBuffer cos_sin = test::Upload(device(), cos_sin_);
  const auto count = static_cast<std::size_t>(T * c.H * (c.R + c.d));
  const ClBuffer y = test::Upload(device(), std::vector<float>(count, 1e30F));
  native_->MlaQuery({Whole(q), stride, weights_, Whole(cos_sin), Whole(y), T, c.H, c.R, c.d, c.nope,
                     c.dv, /*bf16=*/true});
  const std::vector<float> got = test::Download<float>(device(), y, count);
  Worst worst;
  for (std::int64_t t = 0; t < T; t += t < 3 ? 1 : 13) {
    for (std::int64_t h = 0; h < c.H; ++h) {
      const float* row = q_.data() + t * stride + h * (c.nope + c.d);
      for (std::int64_t r = 0; r < c.R + c.d; ++r) {
        Reference want;
        for (std::int64_t n = 0; r < c.R && n < c.nope; ++n) want.Add(row[n], Uk(c, h, n, r));
        if (r >= c.R) want = Roped(row + c.nope, cos_sin_.data() + t * c.d, r - c.R);
        worst.See(got[static_cast<std::size_t>((t * c.H + h) * (c.R + c.d) + r)], want,
                  test::DotFactor(c.nope) + Rounding(c.type, c.nope), t, h * (c.R + c.d) + r);
      }
    }
  }
  EXPECT_TRUE(worst.Verdict()) << "query " << c.H << " heads of " << c.R << " " << Name(c.type)
                               << (c.joined ? " kv_b" : " k_b") << " T " << T;
}

void MlaHeadsMmaTest::CheckOutputMma(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
  Prepare(c);
  RoundAll(v_.values);
  PrepareParts(c, T, splits);
  RoundAll(parts_);
  const ClBuffer parts = test::Upload(device(), parts_);
  const ClBuffer lse = test::Upload(device(), lse_);
  const std::int64_t stride = c.H * c.dv + 7;
  const auto count = static_cast<std::size_t>(T * stride);
  const ClBuffer out = test::Upload(device(), std::vector<float>(count, 1e30F));
  native_->MlaOutput({Whole(parts), Whole(lse), splits, weights_, Whole(out), stride, T, c.H, c.R,
                      c.nope, c.dv, /*bf16=*/true});
  const std::vector<float> got = test::Download<float>(device(), out, count);
  // Of one split u is exact in bf16; the sum of several is rounded to it.
  const double rounding =
      splits > 1 ? 0x1p-8 / static_cast<double>(std::numeric_limits<float>::epsilon()) : 0;
  Worst worst;
  for (std::int64_t row = 0; row < T * c.H; row += row < 5 ? 1 : 17) {
    const std::vector<Reference> u = Merged(c, row, splits);
    for (std::int64_t n = 0; n < c.dv; ++n) {
      Reference want;
      for (std::int64_t r = 0; r < c.R; ++r) {
        const double w = Uv(c, row % c.H, n, r);
        want.value += u[static_cast<std::size_t>(r)].value * w;
        want.size += u[static_cast<std::size_t>(r)].size * std::fabs(w);
      }
      worst.See(got[static_cast<std::size_t>(row / c.H * stride + row % c.H * c.dv + n)], want,
                test::DotFactor(c.R) + 8 + rounding + Rounding(c.type, c.R), row, n);
    }
  }
  EXPECT_TRUE(worst.Verdict()) << "output " << c.H << " heads of " << c.R << " " << Name(c.type)
                               << " T " << T << " splits " << splits;
}

TEST_P(MlaHeadsMmaTest, QueryOfEveryFormat) {
  for (const DType type : kMatrixFormats) {
    CheckQueryMma({3, 512, 64, 128, 128, type}, 130, 0);
    if (BlockElements(type) <= 32) CheckQueryMma({2, 64, 16, 32, 32, type, false}, 32, 4);
  }
  CheckQueryMma({16, 512, 64, 128, 128, DType::kF8E4M3}, 300, 8);
  CheckQueryMma({2, 72, 6, 24, 40, DType::kBF16}, 129, 5);
}

TEST_P(MlaHeadsMmaTest, OutputOfEveryFormat) {
  for (const DType type : kMatrixFormats) {
    CheckOutputMma({3, 512, 64, 128, 128, type}, 130, 1);
    if (BlockElements(type) <= 32) CheckOutputMma({2, 64, 16, 32, 32, type, false}, 32, 3);
  }
  CheckOutputMma({16, 512, 64, 128, 128, DType::kF8E4M3}, 300, 2);
  CheckOutputMma({2, 72, 6, 24, 40, DType::kBF16}, 129, 8);
  CheckOutputMma({2, 72, 6, 24, 40, DType::kBF16}, 40, 9);  // more than this form merges
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaHeadsTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Shapes, MlaHeadsMmaTest, ::testing::Values(Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
