// ctest: opencl
// The products of many rows on matrix units. What they compute exactly is known: x and the weights
// in bf16, so the reference rounds both as they do and the tolerance is that of sums in f32. Where
// the device has no matrix units, what runs everywhere is tested: rounding, decoding, the rules.
#include "cl_kernels/gemm.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "cl_kernels/launch.h"
#include "cl_kernels/program_patch.h"
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
  // Shared by the tests, because compiling takes longer than running.
  cl::Programs& programs() {
    static std::optional<cl::Programs> programs;
    cl::DeviceTraits traits = cl::TraitsOf(device());
    traits.wgmma_products = true;
    if (!programs) programs.emplace(device(), traits, "");
    return *programs;
  }
  // As on a device of compute capability 8.0.
  cl::Programs& without_wgmma() {
    static std::optional<cl::Programs> programs;
    cl::DeviceTraits traits = cl::TraitsOf(device());
    traits.nv_compute = 80;
    if (!programs) programs.emplace(device(), traits, "");
    return *programs;
  }
  bool HasMma() { return programs().traits().nv_compute >= 80; }
};

#define NEEDS_MMA() \
  if (!HasMma()) GTEST_SKIP() << device().info().name << " has no mma.sync"

// Whether FP8's weights are rounded with their scales, or partial sums are scaled in f32.
bool FoldsScales(const cl::Programs& programs) {
  return programs.traits().nv_compute == 90 && programs.traits().wgmma_products;
}

// The values that a kernel multiplies by.
void RoundWeights(TestWeight* w, bool folds_scales) {
  if (w->dtype == DType::kF8E4M3 && !folds_scales) return;
  for (double& v : w->values) v = Rounded(v);
}

// The same of gemm_turned.cl in Q4_K, which rounds a run's scale and minimum, too.
void RoundTurned(TestWeight* w) {
  for (std::int64_t i = 0; i < w->rows * w->cols; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::uint8_t* const header = &w->side[at / 256 * 16];
    const std::uint8_t* const s = header + 4;
    std::uint16_t d = 0;
    std::uint16_t dmin = 0;
    std::memcpy(&d, header, 2);
    std::memcpy(&dmin, header + 2, 2);
    const std::size_t run = at % 256 / 32;
    const int scale = run < 4 ? s[run] & 63 : (s[run + 4] & 15) | s[run - 4] >> 6 << 4;
    const int least = run < 4 ? s[run + 4] & 63 : s[run + 4] >> 4 | s[run] >> 6 << 4;
    const int code = w->bytes[at / 64 * 32 + at % 32] >> at % 64 / 32 * 4 & 15;
    const double a = F16ToF32(d) * static_cast<float>(scale);
    const double b = F16ToF32(dmin) * static_cast<float>(least);
    w->values[at] = Rounded(Rounded(a) * code + Rounded(8 * (a - Rounded(a)) - b));
  }
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
      const std::uint16_t bits = got[static_cast<std::size_t>(8 + t * 24 + k)];
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(Bf16ToF32(bits)));
      } else {
        EXPECT_EQ(bits, F32ToBf16(want)) << t << " " << k << " of " << want;
      }
    }
  }
}

// Every value where wgmma's fragments have it, zeros beyond T and K.
TEST_F(Gemm, RoundsInTheOrderOfFragments) {
  constexpr std::int64_t kT = 21;
  constexpr std::int64_t kK = 40;
  constexpr std::int64_t kStride = 43;
  const std::vector<float> x = RandomFloats(kT * kStride + 3, 13);
  const ClBuffer in = Upload(device(), x);
  const ClBuffer out = Upload(device(), std::vector<std::uint16_t>(32 * 64, 1));
  const cl_kernel kernel =
      programs().Kernel(cl::Program::kGemm, DType::kBF16, "gemm_round_fragments");
  cl::Arguments(kernel).Set(cl::Span{in.get(), 3}, cl_long{kStride}, cl_int{kT}, cl_int{kK},
                            cl::Span{out.get(), 0});
  cl::Enqueue(programs(), kernel, {1, 1, 1}, 256);
  const auto got = Download<std::uint16_t>(device(), out, 32 * 64);
  for (std::int64_t t = 0; t < 32; ++t) {
    for (std::int64_t k = 0; k < 64; ++k) {
      const std::int64_t run = t / 16 * 4 + k / 16;
      const std::int64_t lane = t % 8 * 4 + k % 8 / 2;
      const std::int64_t word = t % 16 / 8 + k % 16 / 8 * 2;
      const bool inside = t < kT && k < kK;
      const std::uint16_t want =
          inside ? F32ToBf16(x[static_cast<std::size_t>(3 + t * kStride + k)]) : 0;
      EXPECT_EQ(got[static_cast<std::size_t>((run * 32 + lane) * 8 + word * 2 + k % 2)], want)
          << t << " " << k;
    }
  }
}

// Where column k is in the order of gemm_turned.cl, in blocks of `columns`; 0: where it was.
std::int64_t TurnedPlace(std::int64_t k, std::int64_t columns) {
  if (columns == 0) return k;
  const std::int64_t in_block = k % columns;
  const std::int64_t step = columns == 64 ? 0 : in_block % 64 / 32 + in_block % 32 / 16 * 2;
  const std::int64_t item = in_block / (columns / 4);
  return k - in_block + 64 * step + k % 16 / 4 * 16 + k % 4 / 2 * 8 + item * 2 + k % 2;
}

// Every value in its place, each place once, zeros beyond K.
TEST_F(Gemm, RoundsInTheOrderOfRegisters) {
  constexpr std::int64_t kT = 5;
  constexpr std::int64_t kStride = 517;
  const std::vector<float> x = RandomFloats(kT * kStride + 3, 17);
  const ClBuffer in = Upload(device(), x);
  const cl_kernel kernel = programs().Kernel(cl::Program::kGemm, DType::kBF16, "gemm_round_turned");
  for (const auto& [columns, K] : {std::pair{64, 80}, {64, 64}, {256, 512}}) {
    const std::int64_t row = (K + 63) / 64 * 64;
    const ClBuffer out =
        Upload(device(), std::vector<std::uint16_t>(static_cast<std::size_t>(kT * row), 1));
    cl::Arguments(kernel).Set(cl::Span{in.get(), 3}, cl_long{kStride}, cl_int{kT}, cl_int{K},
                              cl_int{columns}, cl::Span{out.get(), 0});
    cl::Enqueue(programs(), kernel, {(kT * row / 8 + 255) / 256, 1, 1}, 256);
    const auto got = Download<std::uint16_t>(device(), out, static_cast<std::size_t>(kT * row));
    std::vector<int> met(static_cast<std::size_t>(row));
    for (std::int64_t k = 0; k < row; ++k) {
      const std::int64_t place = TurnedPlace(k, columns);
      ++met[static_cast<std::size_t>(place)];
      for (std::int64_t t = 0; t < kT; ++t) {
        const std::uint16_t want =
            k < K ? F32ToBf16(x[static_cast<std::size_t>(3 + t * kStride + k)]) : 0;
        EXPECT_EQ(got[static_cast<std::size_t>(t * row + place)], want)
            << K << " " << t << " " << k;
      }
    }
    EXPECT_EQ(std::count(met.begin(), met.end(), 1), row) << columns;
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
  std::string text = cl::TextOf(cl::Program::kGemm);
  text = text.substr(0, text.find("// Parts of gemm_tile.cl")) + kDecodeKernel;  // the rest is slow
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
  for (const DType type : kFormats) {
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

TEST_F(Gemm, LinearInEveryFormat) {
  NEEDS_MMA();
  AllFormats(device(), programs());
}

TEST_F(Gemm, LinearInEveryFormatWithoutWgmma) {
  if (programs().traits().nv_compute <= 80) {
    GTEST_SKIP() << device().info().name << " has one form";
  }
  AllFormats(device(), without_wgmma());
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
TEST_F(Gemm, WideTiles) {
  NEEDS_MMA();
  EXPECT_TRUE(WideProducts(device(), without_wgmma()));
}

TEST_F(Gemm, WideTilesThroughWgmma) {
  if (programs().traits().nv_compute != 90) {
    GTEST_SKIP() << device().info().name << " has no wgmma";
  }
  EXPECT_TRUE(programs().HasWgmma()) << fmt::format("{}", fmt::join(programs().refusals(), "; "));
  EXPECT_TRUE(WideProducts(device(), programs()));
}

TEST(HiddenPtx, CommentsBecomeInstructions) {
  const std::string text =
      ".version 9.0\n.target sm_90, texmode_independent\n\t// begin inline asm\n"
      "\t//PTX wgmma.fence.sync.aligned;\n\t// end inline asm\n\t//PTX { x {%f1, %f2}, %rd3; }\n";
  EXPECT_EQ(cl::WithHiddenPtx(text + std::string(1, '\0')),
            ".version 9.0\n.target sm_90a, texmode_independent\n\t// begin inline asm\n"
            "\twgmma.fence.sync.aligned;\n\t// end inline asm\n\t{ x {%f1, %f2}, %rd3; }\n");
}

TEST(HiddenPtx, OtherBinariesAreRefused) {
  EXPECT_THROW(cl::WithHiddenPtx("\177ELF"), OpenClError);
  EXPECT_THROW(cl::WithHiddenPtx(".target sm_90\nret;\n"), OpenClError);
  EXPECT_THROW(cl::WithHiddenPtx(".target sm_80\n//PTX x;\n"), OpenClError);
}

// A layer of experts in two slabs, with pairs as Group lists them.
class Layer {
 public:
  static constexpr std::int64_t kT = 70;
  struct Widths {
    std::int64_t D = 512;
    std::int64_t F = 512;
    std::int64_t less_F = 256;  // of some experts
  };

  // `turned`: as where experts have few rows each.
  Layer(const ClDevice& device, bool folds_scales, DType gate_up, DType down, bool turned,
        const Widths& widths)
      : device_(device), folds_scales_(folds_scales), turned_(turned), D_(widths.D), F_(widths.F) {
    AddExpert(0, gate_up, down, F_, 5);
    AddExpert(1, gate_up, down, F_, 70);
    AddExpert(-1, gate_up, down, widths.less_F, 0);
    AddExpert(1, gate_up, down, widths.less_F, 64);
    AddExpert(0, gate_up, down, F_, 65);
    for (WeightBlob& blob : blobs_) slabs_.push_back(blob.Upload(device));
    x_ = RandomFloats(static_cast<std::size_t>(kT * D_), 21);
    weight_ = RandomFloats(row_.size(), 23);
    MakeTokenPairs();
  }

  ::testing::AssertionResult Run(cl::Programs& programs, DType gate_up, DType down) {
    const std::vector<cl_mem> slabs = {slabs_[0].get(), slabs_[1].get()};
    const std::vector<float> before = RandomFloats(static_cast<std::size_t>(kT * D_), 25);
    const auto pairs = static_cast<std::int64_t>(row_.size());
    const ClBuffer table = Upload(device_, table_);
    const ClBuffer tiles = Upload(device_, tiles_);
    const ClBuffer n_tiles =
        Upload(device_, std::vector<cl_int>{static_cast<cl_int>(tiles_.size())});
    const ClBuffer row = Upload(device_, row_);
    const ClBuffer weight = Upload(device_, weight_);
    const ClBuffer token_pairs = Upload(device_, token_pairs_);
    const ClBuffer x = Upload(device_, x_);
    const ClBuffer y = Upload(device_, before);
    const ClBuffer act = Upload(device_, std::vector<float>(static_cast<std::size_t>(pairs * F_)));
    const ClBuffer out = Upload(device_, std::vector<float>(static_cast<std::size_t>(pairs * D_)));
    const ClBuffer work =
        device_.Allocate(static_cast<std::size_t>(cl::GemmWorkFloats(kT, D_)) * 4);
    cl::ExpertsArgs a;
    a.slabs = slabs;
    a.gate_up = gate_up;
    a.down = down;
    a.D = D_;
    a.F = F_;
    a.table = {table.get(), 0};
    a.tiles = {tiles.get(), 0};
    a.n_tiles = {n_tiles.get(), 0};
    a.max_tiles = static_cast<std::int64_t>(tiles_.size()) + (turned_ ? 3 : 2);
    a.tile_rows = cl::kGemmTileRows;
    a.pair_row = {row.get(), 0};
    a.pair_weight = {weight.get(), 0};
    a.token_pairs = {token_pairs.get(), 0};
    a.T = kT;
    a.C = kC;
    a.x = {x.get(), 0};
    a.x_stride = D_;
    a.act = {act.get(), 0};
    a.pair_out = {out.get(), 0};
    a.y = {y.get(), 0};
    a.y_stride = D_;
    a.bf16 = true;
    a.work = {work.get(), 0};
    cl::LaunchExpertsGemm(programs, a);
    act_columns_ = cl::ExpertsActColumns(programs, a);
    if ((act_columns_ != 0) != turned_) return ::testing::AssertionFailure() << "the other form";
    const auto acts =
        Download<std::uint16_t>(device_, act, static_cast<std::size_t>(2 * pairs * F_));
    const auto sums = Download<float>(device_, out, static_cast<std::size_t>(pairs * D_));
    const auto result = CompareActs(acts);
    if (!result) return result;
    const auto downs = CompareDowns(acts, sums);
    if (!downs) return downs;
    return CompareY(Download<float>(device_, y, before.size()), before, sums);
  }

 private:
  static constexpr std::int64_t kC = 4;
  struct Expert {
    TestWeight gate, up, down;
    std::int64_t F = 0;
    std::int64_t first = 0;
    std::int64_t n = 0;
  };

  void AddExpert(int slab, DType gate_up, DType down, std::int64_t F, std::int64_t n) {
    const auto seed = static_cast<unsigned>(31 + 5 * experts_.size());
    Expert e{MakeWeight(gate_up, F, D_, seed),       MakeWeight(gate_up, F, D_, seed + 1),
             MakeWeight(down, D_, F, seed + 2),      F,
             static_cast<std::int64_t>(row_.size()), n};
    cl::ExpertEntry entry;
    if (slab >= 0) {
      const cl::Weight gate = blobs_[slab].Add(e.gate);
      const cl::Weight up = blobs_[slab].Add(e.up);
      const cl::Weight last = blobs_[slab].Add(e.down);
      entry = {gate.offset, gate.scale_offset, up.offset, up.scale_offset,
               last.offset, last.scale_offset, slab,      static_cast<cl_int>(F)};
    }
    for (TestWeight* w : {&e.gate, &e.up, &e.down}) {
      if (turned_ && w->dtype == DType::kQ4_K) {
        RoundTurned(w);
      } else {
        RoundWeights(w, folds_scales_);
      }
    }
    table_.push_back(entry);
    for (std::int64_t p = 0; p < n; p += cl::kGemmTileRows) {
      tiles_.push_back({static_cast<cl_int>(experts_.size()), static_cast<cl_int>(e.first + p),
                        static_cast<cl_int>(std::min(n - p, cl::kGemmTileRows)), 0});
    }
    for (std::int64_t p = 0; p < n; ++p) row_.push_back(static_cast<cl_int>((p * 37 + 11) % kT));
    experts_.push_back(std::move(e));
  }

  void MakeTokenPairs() {
    token_pairs_.assign(static_cast<std::size_t>(kT * kC), -1);
    std::vector<int> used(static_cast<std::size_t>(kT));
    for (std::size_t p = 0; p < row_.size(); ++p) {
      const auto t = static_cast<std::size_t>(row_[p]);
      if (used[t] < kC)
        token_pairs_[t * kC + static_cast<std::size_t>(used[t]++)] = static_cast<cl_int>(p);
    }
  }

  std::size_t ActAt(std::int64_t p, std::int64_t f) const {
    const std::int64_t row = act_columns_ == 0 ? F_ : (F_ + 63) / 64 * 64;
    return static_cast<std::size_t>(p * row + TurnedPlace(f, act_columns_));
  }

  static double Slack(const TestWeight& w) {
    const double c = 4 * test::DotFactor(w.cols);
    return BlockElements(w.dtype) == 256 ? c + 3 * 0x1p15 / static_cast<double>(w.cols) : c;
  }

  ::testing::AssertionResult CompareActs(const std::vector<std::uint16_t>& acts) const {
    Worst worst;
    constexpr double kEps = std::numeric_limits<float>::epsilon();
    for (const Expert& e : experts_) {
      for (std::int64_t p = e.first; p < e.first + e.n; ++p) {
        const float* const x =
            &x_[static_cast<std::size_t>(row_[static_cast<std::size_t>(p)] * D_)];
        for (std::int64_t f = 0; f < e.F; f += f % 16 == 5 ? 7 : 1) {
          Reference gate, up;
          for (std::int64_t k = 0; k < D_; ++k) {
            gate.Add(Rounded(x[k]), e.gate.values[static_cast<std::size_t>(f * D_ + k)]);
            up.Add(Rounded(x[k]), e.up.values[static_cast<std::size_t>(f * D_ + k)]);
          }
          const double weight = weight_[static_cast<std::size_t>(p)];
          const double silu = gate.value / (1 + std::exp(-gate.value));
          Reference want;
          want.value = weight * silu * up.value;
          want.size = std::fabs(weight) *
                      (1.1 * gate.size * std::fabs(up.value) + std::fabs(silu) * up.size);
          // The product is stored in bf16: half a unit of its last place.
          want.size += std::fabs(want.value) * 0x1p-8 / (kEps * Slack(e.gate));
          worst.See(Bf16ToF32(acts[ActAt(p, f)]), want, Slack(e.gate), p, f);
        }
      }
    }
    return worst.Verdict();
  }

  ::testing::AssertionResult CompareDowns(const std::vector<std::uint16_t>& acts,
                                          const std::vector<float>& sums) const {
    Worst worst;
    for (const Expert& e : experts_) {
      for (std::int64_t p = e.first; p < e.first + e.n; ++p) {
        for (std::int64_t d = 0; d < D_; d += d % 16 == 5 ? 7 : 1) {
          Reference want;
          for (std::int64_t f = 0; f < e.F; ++f) {
            want.Add(Bf16ToF32(acts[ActAt(p, f)]),
                     e.down.values[static_cast<std::size_t>(d * e.F + f)]);
          }
          worst.See(sums[static_cast<std::size_t>(p * D_ + d)], want, Slack(e.down), p, d);
        }
      }
    }
    return worst.Verdict();
  }

  ::testing::AssertionResult CompareY(const std::vector<float>& y, const std::vector<float>& before,
                                      const std::vector<float>& sums) const {
    Worst worst;
    for (std::int64_t t = 0; t < kT; ++t) {
      for (std::int64_t d = 0; d < D_; ++d) {
        Reference want;
        want.Add(before[static_cast<std::size_t>(t * D_ + d)], 1);
        for (std::int64_t c = 0; c < kC; ++c) {
          const cl_int p = token_pairs_[static_cast<std::size_t>(t * kC + c)];
          if (p >= 0) want.Add(sums[static_cast<std::size_t>(p * D_ + d)], 1);
        }
        worst.See(y[static_cast<std::size_t>(t * D_ + d)], want, 8, t, d);
      }
    }
    return worst.Verdict();
  }

  const ClDevice& device_;
  const bool folds_scales_;
  const bool turned_;
  const std::int64_t D_;
  const std::int64_t F_;
  std::int64_t act_columns_ = 0;
  std::vector<Expert> experts_;
  WeightBlob blobs_[2];
  std::vector<ClBuffer> slabs_;
  std::vector<cl::ExpertEntry> table_;
  std::vector<cl::ExpertTile> tiles_;
  std::vector<cl_int> row_, token_pairs_;
  std::vector<float> weight_, x_;
};

TEST_F(Gemm, ExpertsInTwoSlabs) {
  NEEDS_MMA();
  const bool folds = FoldsScales(programs());
  const auto run = [&](cl::Programs& with, DType gate_up, DType down, bool turned,
                       const Layer::Widths& widths = {}) {
    const bool folded = folds && &with == &programs();
    EXPECT_TRUE(Layer(device(), folded, gate_up, down, turned, widths).Run(with, gate_up, down))
        << Name(gate_up) << " " << Name(down) << " turned " << turned;
  };
  for (const DType type : kFormats) {
    run(programs(), type, type, false);
    if (type != DType::kBF16 && folds) run(programs(), type, type, true);
  }
  run(programs(), DType::kQ4_K, DType::kQ6_K, folds);
  run(programs(), DType::kF8E4M3, DType::kQ4_K, folds, {528, 512, 256});
  run(programs(), DType::kF8E4M3, DType::kF8E4M3, folds, {528, 176, 80});
  run(programs(), DType::kQ8_0, DType::kQ4_0, folds, {544, 224, 32});
  run(without_wgmma(), DType::kF8E4M3, DType::kF8E4M3, false);
}

}  // namespace
}  // namespace tandem
