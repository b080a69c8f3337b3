// ctest: opencl
// Products of many rows on matrix units, in every format and form.
#include <fmt/ranges.h>

#include "tests/support/gemm_fixture.h"

namespace tandem {
namespace {

using test::Download;
using test::FoldsScales;
using test::GemmTest;
using test::kGemmFormats;
using test::MakeWeight;
using test::RandomFloats;
using test::Reference;
using test::Rounded;
using test::RoundWeights;
using test::TestWeight;
using test::Upload;
using test::WeightBlob;
using test::Worst;

struct Shape {
  std::int64_t T, N, K;
};

// One product: y [T, N] from x (with a stride and an offset) and w, in all modes.
class Product {
 public:
  Product(const ClDevice& device, cl::Programs& programs, DType type, Shape s)
      : device_(device), programs_(programs), s_(s) {
    w_ = MakeWeight(type, s.N, s.K, 5);
    w2_ = MakeWeight(type, s.N, s.K, 7);
    at_ = blob_.Add(w_);
    at2_ = blob_.Add(w2_);
    weights_ = blob_.Upload(device);
    RoundWeights(&w_, FoldsScales(programs));
    RoundWeights(&w2_, FoldsScales(programs));
    x_ = RandomFloats(static_cast<std::size_t>((s.T + 1) * Stride()), 9);
    x_buffer_ = Upload(device, x_);
    work_ = device.Allocate(static_cast<std::size_t>(cl::GemmWorkFloats(s.T, s.K)) * 4);
  }

  ::testing::AssertionResult Run(bool accumulate, bool swiglu) {
    const std::vector<float> before =
        RandomFloats(static_cast<std::size_t>(2 * (s_.T + 1) * YStride()), 11);
    const ClBuffer y = Upload(device_, before);
    cl::LinearArgs a;
    a.x = {x_buffer_.get(), 4};
    a.x_stride = Stride();
    a.w = at_;
    a.w.buffer = weights_.get();
    a.w2 = at2_;
    a.w2.buffer = weights_.get();
    a.y = {y.get(), 2};
    a.y_stride = YStride();
    a.y2 = {y.get(), (s_.T + 1) * YStride()};
    a.y2_stride = YStride();
    a.T = s_.T;
    a.accumulate = accumulate;
    a.swiglu = swiglu;
    a.bf16 = true;
    a.work = {work_.get(), 0};
    cl::LaunchGemm(programs_, a);
    const auto got = Download<float>(device_, y, before.size());
    return Compare(got, before, accumulate, swiglu);
  }

 private:
  std::int64_t Stride() const { return s_.K + 8; }
  std::int64_t YStride() const { return s_.N + 3; }

  Reference Dot(const TestWeight& w, std::int64_t t, std::int64_t n) const {
    Reference sum;
    for (std::int64_t k = 0; k < s_.K; ++k) {
      sum.Add(Rounded(x_[static_cast<std::size_t>(4 + t * Stride() + k)]),
              w.values[static_cast<std::size_t>(n * s_.K + k)]);
    }
    return sum;
  }

  ::testing::AssertionResult Compare(const std::vector<float>& got,
                                     const std::vector<float>& before, bool accumulate,
                                     bool swiglu) const {
    // Matrix units cut the sums' last bits off instead of rounding them.
    double c = 4 * test::DotFactor(s_.K);
    // Scales times 6-bit scales times codes need more bits than f32 has, so that now and then a
    // weight near the middle of two bf16 goes the other way: room for three.
    if (BlockElements(w_.dtype) == 256) c += 3 * 0x1p15 / static_cast<double>(s_.K);
    Worst worst;
    // Of a large product every row of fragments, at varying places.
    const std::int64_t row_step = s_.N > 1000 ? 7 : 1;
    for (std::int64_t t = 0; t < s_.T; t += row_step) {
      for (std::int64_t n = 0; n < s_.N; n += n % 16 == 5 ? 7 : 1) {
        const auto i = static_cast<std::size_t>(2 + t * YStride() + n);
        const auto i2 = static_cast<std::size_t>((s_.T + 1 + t) * YStride() + n);
        Reference want = Dot(w_, t, n);
        const Reference second = Dot(w2_, t, n);
        if (swiglu) {
          // A change of the gate by e changes silu by at most 1.1 e.
          const double silu = want.value / (1 + std::exp(-want.value));
          want.size = 1.1 * want.size * std::fabs(second.value) + std::fabs(silu) * second.size;
          want.value = silu * second.value;
        } else {
          worst.See(got[i2], second, c, t, n);
        }
        if (accumulate) want.Add(before[i], 1);
        worst.See(got[i], want, c, t, n);
      }
      for (std::int64_t n = s_.N; n < YStride(); ++n) {
        const auto i = static_cast<std::size_t>(2 + t * YStride() + n);
        if (n < YStride() - 2 && got[i] != before[i]) {
          return ::testing::AssertionFailure() << "wrote beyond row " << t;
        }
      }
    }
    return worst.Verdict();
  }

  const ClDevice& device_;
  cl::Programs& programs_;
  Shape s_;
  WeightBlob blob_;
  TestWeight w_, w2_;
  cl::Weight at_, at2_;
  ClBuffer weights_, x_buffer_, work_;
  std::vector<float> x_;
};

void AllFormats(const ClDevice& device, cl::Programs& programs) {
  for (const DType type : kGemmFormats) {
    const std::int64_t block = BlockElements(type);
    for (const Shape s : {Shape{200, 130, 512}, Shape{40, 72, 256}, Shape{129, 65, 768}}) {
      ASSERT_EQ(s.K % block, 0);
      Product product(device, programs, type, s);
      const auto where = fmt::format("{} {} x {} x {}", Name(type), s.T, s.N, s.K);
      EXPECT_TRUE(product.Run(false, false)) << where;
      EXPECT_TRUE(product.Run(true, false)) << where;
      EXPECT_TRUE(product.Run(false, true)) << where;
    }
  }
}

TEST_F(GemmTest, LinearInEveryFormat) {
  NEEDS_MMA();
  AllFormats(device(), programs());
}

TEST_F(GemmTest, LinearInEveryFormatWithoutWgmma) {
  if (programs().traits().nv_compute <= 80) {
    GTEST_SKIP() << device().info().name << " has one form";
  }
  AllFormats(device(), without_wgmma());
}

TEST_F(GemmTest, AnyNumberOfColumns) {
  NEEDS_MMA();
  for (const std::int64_t K : {8, 24, 136, 1000}) {
    EXPECT_TRUE(Product(device(), programs(), DType::kBF16, {70, 70, K}).Run(false, false)) << K;
  }
  for (const std::int64_t K : {16, 48, 144, 400}) {
    for (const DType type : {DType::kF8E4M3, DType::kF16, DType::kF32}) {
      EXPECT_TRUE(Product(device(), programs(), type, {70, 70, K}).Run(false, false))
          << Name(type) << " " << K;
    }
  }
}

::testing::AssertionResult WideProducts(const ClDevice& device, cl::Programs& programs) {
  const std::int64_t N = 64 * device.info().compute_units + 8;
  Product product(device, programs, DType::kBF16, {4 * 128 + 9, N, 136});
  for (const bool accumulate : {false, true}) {
    const auto result = product.Run(accumulate, false);
    if (!result) return result;
  }
  return product.Run(false, true);
}

// More tiles than the device has multiprocessors: the 256 x 128 form of mma.sync.
TEST_F(GemmTest, WideTiles) {
  NEEDS_MMA();
  EXPECT_TRUE(WideProducts(device(), without_wgmma()));
}

TEST_F(GemmTest, WideTilesThroughWgmma) {
  if (programs().traits().nv_compute != 90) {
    GTEST_SKIP() << device().info().name << " has no wgmma";
  }
  EXPECT_TRUE(programs().HasWgmma()) << fmt::format("{}", fmt::join(programs().refusals(), "; "));
  EXPECT_TRUE(WideProducts(device(), programs()));
}

}  // namespace
}  // namespace tandem
