// ctest: opencl
// Products of many rows of x in FP8 with FP8 weights: the codes bit by bit, and the sums against
// the double-precision formula over the same codes.
#include <fmt/ranges.h>

#include <optional>

#include "cl_kernels/gemm.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/linear.h"
#include "cl_kernels/programs.h"
#include "tests/support/cl_fixture.h"
#include "tests/support/e4m3_codes.h"

namespace tandem {
namespace {

using cl::CeilDiv;
using test::Codes;
using test::CodesOf;
using test::Download;
using test::E4m3Of;
using test::MakeWeight;
using test::RandomFloats;
using test::Reference;
using test::ScaledInputs;
using test::TestWeight;
using test::Upload;
using test::ValueOf;
using test::WeightBlob;
using test::Worst;

struct Shape {
  std::int64_t T, N, K;
};
constexpr Shape kSmall[] = {{200, 130, 512}, {40, 72, 144}, {129, 65, 784}};

// y, y2 or silu(y) y2 of x in FP8.
class Product {
 public:
  // `exact`: every sum is a whole number below 2^11, and every scale is 1.
  Product(const ClDevice& device, cl::Programs& programs, Shape s, bool exact)
      : device_(device), programs_(programs), s_(s), exact_(exact) {
    w_ = MakeWeight(DType::kF8E4M3, s.N, s.K, 5);
    w2_ = MakeWeight(DType::kF8E4M3, s.N, s.K, 7);
    x_ = ScaledInputs(static_cast<std::size_t>((s.T + 1) * Stride()), 9);
    if (exact) MakeExact();
    at_ = blob_.Add(w_);
    at2_ = blob_.Add(w2_);
    weights_ = blob_.Upload(device);
    at_.buffer = at2_.buffer = weights_.get();
    x_buffer_ = Upload(device, x_);
    codes_ = CodesOf(x_, 4, Stride(), s.T, s.K);
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
    a.w2 = at2_;
    a.y = {y.get(), 2};
    a.y_stride = YStride();
    a.y2 = {y.get(), (s_.T + 1) * YStride()};
    a.y2_stride = YStride();
    a.T = s_.T;
    a.accumulate = accumulate;
    a.swiglu = swiglu;
    a.bf16 = a.fp8 = true;
    a.work = {work_.get(), 0};
    cl::LaunchLinear(programs_, a);
    return Compare(Download<float>(device_, y, before.size()), before, accumulate, swiglu);
  }

 private:
  void MakeExact() {
    for (TestWeight* w : {&w_, &w2_}) {
      std::ranges::fill(w->scales, 1.0F);
      for (std::size_t i = 0; i < w->values.size(); ++i) {
        w->values[i] = static_cast<double>(w->bytes[i] % 3) - 1;
        w->bytes[i] = E4m3Of(w->values[i]);
      }
    }
    for (std::size_t i = 0; i < x_.size(); ++i)
      x_[i] = std::nearbyint(std::clamp(x_[i], -3.F, 3.F));
    for (std::int64_t t = 0; t < s_.T; ++t) {
      for (std::int64_t k = t % 16; k < s_.K; k += test::kE4m3Block) {
        x_[static_cast<std::size_t>(4 + t * Stride() + k)] = 448;
      }
    }
  }
  std::int64_t Stride() const { return s_.K + 8; }
  std::int64_t YStride() const { return s_.N + 3; }

  Reference Dot(const TestWeight& w, std::int64_t t, std::int64_t n) const {
    Reference sum;
    const std::int64_t blocks = CeilDiv(s_.K, test::kE4m3Block);
    for (std::int64_t k = 0; k < s_.K; ++k) {
      const double scale =
          codes_.scales[static_cast<std::size_t>(t * blocks + k / test::kE4m3Block)];
      sum.Add(ValueOf(codes_.codes[static_cast<std::size_t>(t * s_.K + k)]) * scale,
              w.values[static_cast<std::size_t>(n * s_.K + k)]);
    }
    return sum;
  }

  ::testing::AssertionResult Compare(const std::vector<float>& got,
                                     const std::vector<float>& before, bool accumulate,
                                     bool swiglu) const {
    // The matrix units cut each product off at 13 bits behind the largest of the 32 that they add
    // at a time: small whole numbers are exact, others may be wrong by 128 such cuts in a block.
    const bool f32 = programs_.traits().nv_compute == 0;
    const double c = exact_ ? 0 : 4 * test::DotFactor(s_.K) + (f32 ? 0 : 128 * 0x1p10);
    Worst worst;
    const std::int64_t row_step = s_.N > 1000 ? 101 : 1;
    for (std::int64_t t = 0; t < s_.T; t += row_step) {
      for (std::int64_t n = 0; n < s_.N; n += n % 16 == 5 ? 7 : 1) {
        const auto i = static_cast<std::size_t>(2 + t * YStride() + n);
        const auto i2 = static_cast<std::size_t>((s_.T + 1 + t) * YStride() + n);
        Reference want = Dot(w_, t, n);
        const Reference second = Dot(w2_, t, n);
        if (swiglu) {
          const double silu = want.value / (1 + std::exp(-want.value));
          want.size = 1.1 * want.size * std::fabs(second.value) + std::fabs(silu) * second.size;
          want.value = silu * second.value;
        } else {
          worst.See(got[i2], second, c, t, n);
        }
        if (accumulate) want.Add(before[i], 1);
        worst.See(got[i], want, c, t, n);
      }
      for (std::int64_t n = s_.N; n < YStride() - 2; ++n) {
        const auto i = static_cast<std::size_t>(2 + t * YStride() + n);
        if (got[i] != before[i]) return ::testing::AssertionFailure() << "wrote beyond row " << t;
      }
    }
    return worst.Verdict();
  }

  const ClDevice& device_;
  cl::Programs& programs_;
  Shape s_;
  bool exact_;
  WeightBlob blob_;
  TestWeight w_, w2_;
  cl::Weight at_, at2_;
  ClBuffer weights_, x_buffer_, work_;
  std::vector<float> x_;
  Codes codes_;
};

class GemmF8 : public test::ClTest {
 protected:
  cl::Programs& programs() {
    static std::optional<cl::Programs> programs;
    if (!programs) programs.emplace(device(), cl::TraitsOf(device()), "");
    return *programs;
  }
  // As on a device without matrix units.
  cl::Programs& in_f32() {
    static std::optional<cl::Programs> programs;
    cl::DeviceTraits traits = cl::TraitsOf(device());
    traits.nv_compute = 0;
    if (!programs) programs.emplace(device(), traits, "");
    return *programs;
  }
  // y, y += and SwiGLU.
  void CheckProducts(cl::Programs& programs, Shape s) {
    EXPECT_TRUE(Product(device(), programs, s, true).Run(false, false))
        << fmt::format("{} x {} x {} of whole numbers", s.T, s.N, s.K);
    Product product(device(), programs, s, false);
    for (const auto& [accumulate, swiglu] :
         {std::pair{false, false}, std::pair{true, false}, std::pair{false, true}}) {
      EXPECT_TRUE(product.Run(accumulate, swiglu))
          << fmt::format("{} x {} x {}{}", s.T, s.N, s.K, swiglu ? ", SwiGLU" : "");
    }
  }
};

// Every code where the fragments have it, zeros beyond T and K, scales behind them.
TEST_F(GemmF8, CodesInTheOrderOfFragments) {
  constexpr std::int64_t kT = 21;
  constexpr std::int64_t kK = 264;
  constexpr std::int64_t kStride = 267;
  std::vector<float> x = ScaledInputs(kT * kStride + 3, 13);
  for (std::int64_t k = 0; k < kK; ++k) x[static_cast<std::size_t>(3 + kStride + k)] = 0;
  const Codes want = CodesOf(x, 3, kStride, kT, kK);
  const ClBuffer in = Upload(device(), x);
  constexpr std::size_t kBytes = 32 * 384;
  const ClBuffer out = Upload(device(), std::vector<std::uint8_t>(kBytes + 32 * 3 * 4, 1));
  const cl_kernel kernel = programs().Kernel(cl::Program::kE4m3, DType::kF8E4M3, "e4m3_fragments");
  cl::Arguments(kernel).Set(cl::Span{in.get(), 3}, cl_long{kStride}, cl_int{0}, cl_int{kT},
                            cl_int{kK}, cl::Span{out.get(), 0});
  cl::Enqueue(programs(), kernel, {6, 1, 1}, 256);
  const auto got = Download<std::uint8_t>(device(), out, kBytes + 32 * 3 * 4);
  for (std::int64_t t = 0; t < 32; ++t) {
    for (std::int64_t k = 0; k < 384; ++k) {
      const std::int64_t run = (t / 16 * 3 + k / 128) * 4 + k % 128 / 32;
      const std::int64_t lane = t % 8 * 4 + k % 16 / 4;
      const std::int64_t word = t % 16 / 8 + k % 32 / 16 * 2;
      const bool inside = t < kT && k < kK;
      const int code = inside ? want.codes[static_cast<std::size_t>(t * kK + k)] : 0;
      ASSERT_EQ(got[static_cast<std::size_t>((run * 32 + lane) * 16 + word * 4 + k % 4)], code)
          << t << " " << k << " of " << x[static_cast<std::size_t>(3 + t * kStride + k)];
    }
    for (std::int64_t b = 0; t < kT && b < 3; ++b) {
      float scale = 0;
      std::memcpy(&scale,
                  &got[kBytes + static_cast<std::size_t>((t / 16 * 3 + b) * 16 + t % 16) * 4], 4);
      EXPECT_EQ(scale, want.scales[static_cast<std::size_t>(t * 3 + b)]) << t << " " << b;
    }
  }
}

// What has matrix units but none for e4m3, or a driver that refuses them, keeps x in bf16 and says
// so.
TEST_F(GemmF8, OnlyInF32OrOnMatrixUnitsForIt) {
  EXPECT_TRUE(cl::RoundsFp8(in_f32()));
  cl::DeviceTraits traits = cl::TraitsOf(device());
  traits.nv_compute = 80;
  cl::Programs without_e4m3(device(), traits, "");
  EXPECT_FALSE(cl::RoundsFp8(without_e4m3));
}

TEST_F(GemmF8, InF32) {
  for (const Shape s : kSmall) CheckProducts(in_f32(), s);
}

TEST_F(GemmF8, ThroughMma) {
  cl::DeviceTraits traits = cl::TraitsOf(device());
  if (traits.nv_compute < 89) GTEST_SKIP() << device().info().name << " has no mma of e4m3";
  traits.wgmma_products = false;
  cl::Programs without_wgmma(device(), traits, "");
  EXPECT_GE(without_wgmma.NvCompute(cl::Program::kGemmF8Mma, DType::kF8E4M3), 89)
      << fmt::format("{}", fmt::join(without_wgmma.refusals(), "; "));
  EXPECT_TRUE(cl::RoundsFp8(without_wgmma));
  for (const Shape s : {kSmall[0], kSmall[1], kSmall[2], Shape{530, 1032, 640}}) {
    CheckProducts(without_wgmma, s);
  }
}

TEST_F(GemmF8, ThroughWgmma) {
  if (programs().traits().nv_compute != 90) {
    GTEST_SKIP() << device().info().name << " has no wgmma";
  }
  EXPECT_EQ(programs().NvCompute(cl::Program::kGemmF8Wgmma, DType::kF8E4M3), 90)
      << fmt::format("{}", fmt::join(programs().refusals(), "; "));
  const std::int64_t N = 64 * device().info().compute_units + 8;
  for (const Shape s :
       {kSmall[0], kSmall[1], kSmall[2], Shape{4 * 128 + 9, N, 144}, Shape{530, N, 640}}) {
    CheckProducts(programs(), s);
  }
}

}  // namespace
}  // namespace tandem
