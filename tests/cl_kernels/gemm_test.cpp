// ctest: opencl
// The products of many rows on matrix units. What they compute exactly is known: x and the weights
// in bf16, so the reference rounds both as they do and the tolerance is that of sums in f32. Where
// the device has no matrix units, what runs everywhere is tested: rounding, decoding, the rules.
#include "cl_kernels/gemm.h"

#include <optional>

#include "cl_kernels/programs.h"
#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Download;
using test::MakeWeight;
using test::RandomFloats;
using test::Reference;
using test::TestWeight;
using test::Upload;
using test::WeightBlob;
using test::Worst;

constexpr DType kFormats[] = {DType::kBF16, DType::kF8E4M3, DType::kF16,  DType::kF32,
                              DType::kQ8_0, DType::kQ4_0,   DType::kQ5_0, DType::kMXFP4,
                              DType::kQ4_K, DType::kQ5_K,   DType::kQ6_K};

double Rounded(double value) { return Bf16ToF32(F32ToBf16(static_cast<float>(value))); }

class Gemm : public test::ClTest {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    programs_.emplace(device(), cl::TraitsOf(device()), "");
  }
  cl::Programs& programs() { return *programs_; }
  bool HasMma() { return programs().traits().nv_compute >= 80; }

 private:
  std::optional<cl::Programs> programs_;
};

#define NEEDS_MMA() \
  if (!HasMma()) GTEST_SKIP() << device().info().name << " has no mma.sync"

// The values that a kernel multiplies by: bf16, or FP8's codes with scales applied in f32.
void RoundWeights(TestWeight* w) {
  if (w->dtype == DType::kF8E4M3) return;
  for (double& v : w->values) v = Rounded(v);
}

TEST_F(Gemm, RoundsToNearestEven) {
  std::vector<float> x = RandomFloats(40 * 3, 1);
  const std::uint32_t special[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x00000001, 0x80018000,
                                   0x7f800000, 0x7f7fffff, 0xff800000, 0x00008000, 0x7fc00001};
  std::memcpy(x.data() + 40, special, sizeof(special));
  const ClBuffer in = Upload(device(), x);
  const ClBuffer out = Upload(device(), std::vector<std::uint16_t>(24 * 3 + 8));
  cl::LaunchGemmRound(programs(), DType::kBF16, {in.get(), 8}, 40, 3 - 1, 24, {out.get(), 4});
  const auto got = Download<std::uint16_t>(device(), out, 24 * 3 + 8);
  for (int t = 0; t < 2; ++t) {
    for (int k = 0; k < 24; ++k) {
      const float want = x[static_cast<std::size_t>(8 + t * 40 + k)];
      EXPECT_EQ(got[static_cast<std::size_t>(8 + t * 24 + k)], F32ToBf16(want))
          << t << " " << k << " of " << want;
    }
  }
}

constexpr const char* kDecodeKernel = R"(
kernel void decode(const global uchar* buffer, ulong codes, ulong side, int rows, int K,
                   global uint* out) {
  const int n = (int)get_global_id(0);
  for (int k = 0; k < K; k += 16) {
    uint pairs[8];
    decode16(fetch16(weight_row(buffer, codes, side, rows, n, K), k), k, pairs);
    for (int i = 0; i < 8; ++i) out[(n * K + k) / 2 + i] = pairs[i];
  }
})";

ClKernelHandle DecodeKernel(const ClDevice& device, DType type, ClProgramHandle* program) {
  const std::string text = cl::TextOf(cl::Program::kGemm) + kDecodeKernel;
  const std::string options =
      cl::TraitsOf(device).Options() + cl::TypeOption(cl::Program::kGemm, type);
  const char* data = text.c_str();
  const cl_device_id id = device.id();
  program->reset(clCreateProgramWithSource(device.context(), 1, &data, nullptr, nullptr));
  ClCheck(clBuildProgram(program->get(), 1, &id, options.c_str(), nullptr, nullptr),
          "clBuildProgram");
  return ClKernelHandle(clCreateKernel(program->get(), "decode", nullptr));
}

// Every format: bf16 of the exact value, and FP8's codes as they are.
TEST_F(Gemm, DecodesRunsOf16) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kCols = 512;
  for (const DType type : kFormats) {
    if (type == DType::kBF16) continue;
    const TestWeight w = MakeWeight(type, kRows, kCols, 3);
    WeightBlob blob;
    const cl::Weight at = blob.Add(w);
    const ClBuffer buffer = blob.Upload(device());
    const ClBuffer out = Upload(device(), std::vector<std::uint16_t>(kRows * kCols));
    ClProgramHandle program;
    const ClKernelHandle kernel = DecodeKernel(device(), type, &program);
    cl_mem in = buffer.get();
    cl_mem to = out.get();
    const cl_int sizes[2] = {kRows, kCols};
    clSetKernelArg(kernel.get(), 0, sizeof(in), &in);
    clSetKernelArg(kernel.get(), 1, 8, &at.offset);
    clSetKernelArg(kernel.get(), 2, 8, &at.scale_offset);
    clSetKernelArg(kernel.get(), 3, 4, &sizes[0]);
    clSetKernelArg(kernel.get(), 4, 4, &sizes[1]);
    clSetKernelArg(kernel.get(), 5, sizeof(to), &to);
    const std::size_t global = kRows;
    ClCheck(clEnqueueNDRangeKernel(device().queue(), kernel.get(), 1, nullptr, &global, nullptr, 0,
                                   nullptr, nullptr),
            "clEnqueueNDRangeKernel");
    const auto got = Download<std::uint16_t>(device(), out, kRows * kCols);
    int wrong = 0;
    for (std::size_t i = 0; i < got.size() && wrong < 3; ++i) {
      const double exact = type == DType::kF8E4M3 ? E4M3ToF32(w.bytes[i]) : w.values[i];
      // f32 steps before the rounding may move a value over the middle of two bf16.
      const double slack = type == DType::kF8E4M3 || !IsBlockFormat(type)
                               ? 0
                               : std::fabs(exact) * 0x1p-8 * (1 + 0x1p-8) + 0x1p-20 / 512;
      const double error = std::fabs(Bf16ToF32(got[i]) - exact);
      const bool same = got[i] == F32ToBf16(static_cast<float>(exact)) || error <= slack;
      if (!same) {
        ++wrong;
        ADD_FAILURE() << Name(type) << " row " << i / kCols << " column " << i % kCols << ": got "
                      << Bf16ToF32(got[i]) << ", want " << exact;
      }
    }
  }
}

cl::LinearArgs SomeLinear(const ClBuffer& buffer, DType type, std::int64_t K) {
  cl::LinearArgs a;
  a.x = {buffer.get(), 0};
  a.w = {buffer.get(), 0, 0, type, 64, K};
  a.T = 64;
  a.bf16 = true;
  a.work = {buffer.get(), 0};
  return a;
}

TEST_F(Gemm, TakesWhatItCanRun) {
  cl::DeviceTraits traits = cl::GpuTraits(4);
  traits.nv_compute = 90;
  const cl::Programs with(device(), traits, "");
  traits.nv_compute = 0;
  const cl::Programs without(device(), traits, "");
  const ClBuffer buffer = device().Allocate(1024);
  const cl::LinearArgs good = SomeLinear(buffer, DType::kBF16, 72);
  EXPECT_TRUE(cl::GemmTakes(with, good));
  EXPECT_FALSE(cl::GemmTakes(without, good));
  EXPECT_FALSE(cl::GemmTakes(with, SomeLinear(buffer, DType::kBF16, 68)));
  EXPECT_FALSE(cl::GemmTakes(with, SomeLinear(buffer, DType::kF8E4M3, 72)));
  EXPECT_TRUE(cl::GemmTakes(with, SomeLinear(buffer, DType::kF8E4M3, 80)));
  EXPECT_TRUE(cl::GemmTakes(with, SomeLinear(buffer, DType::kQ4_K, 256)));
  EXPECT_FALSE(cl::GemmTakes(with, SomeLinear(buffer, DType::kQ4_1, 256)));
  cl::LinearArgs a = good;
  a.bf16 = false;
  EXPECT_FALSE(cl::GemmTakes(with, a));
  a = good;
  a.work = {};
  EXPECT_FALSE(cl::GemmTakes(with, a));
  a = good;
  a.T = cl::kGemmMinRows - 1;
  EXPECT_FALSE(cl::GemmTakes(with, a));
  a = good;
  a.w2 = {buffer.get(), 0, 0, DType::kF8E4M3, 64, 72};
  EXPECT_FALSE(cl::GemmTakes(with, a));
}

TEST_F(Gemm, WorkHoldsX) {
  for (const std::int64_t T : {1, 16, 33, 4096}) {
    for (const std::int64_t K : {8, 64, 7168}) EXPECT_GE(2 * cl::GemmWorkFloats(T, K), T * K);
  }
}

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
    RoundWeights(&w_);
    RoundWeights(&w2_);
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
    for (std::int64_t t = 0; t < s_.T; ++t) {
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

TEST_F(Gemm, LinearInEveryFormat) {
  NEEDS_MMA();
  for (const DType type : kFormats) {
    const std::int64_t block = BlockElements(type);
    for (const Shape s : {Shape{200, 130, 512}, Shape{40, 72, 256}, Shape{129, 65, 768}}) {
      ASSERT_EQ(s.K % block, 0);
      Product product(device(), programs(), type, s);
      const auto where = fmt::format("{} {} x {} x {}", Name(type), s.T, s.N, s.K);
      EXPECT_TRUE(product.Run(false, false)) << where;
      EXPECT_TRUE(product.Run(true, false)) << where;
      EXPECT_TRUE(product.Run(false, true)) << where;
    }
  }
}

TEST_F(Gemm, AnyNumberOfColumns) {
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

// More tiles than the device has multiprocessors: the 128 x 256 form.
TEST_F(Gemm, WideTiles) {
  NEEDS_MMA();
  const std::int64_t N = 64 * device().info().compute_units + 8;
  Product product(device(), programs(), DType::kBF16, {4 * 128 + 9, N, 136});
  EXPECT_TRUE(product.Run(false, false));
  EXPECT_TRUE(product.Run(true, false));
  EXPECT_TRUE(product.Run(false, true));
}

}  // namespace
}  // namespace tandem
