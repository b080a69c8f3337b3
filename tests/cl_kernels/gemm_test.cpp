// ctest: opencl
// Around the products of many rows on matrix units: rounding and order of x, decoding of weights,
// the rules by which they are chosen, and what becomes of hidden PTX.
#include "cl_kernels/gemm.h"

#include <algorithm>

#include "cl_kernels/program_patch.h"
#include "tests/support/gemm_fixture.h"

namespace tandem {
namespace {

using test::Download;
using test::GemmTest;
using test::kGemmFormats;
using test::MakeWeight;
using test::RandomFloats;
using test::TestWeight;
using test::TurnedPlace;
using test::Upload;
using test::WeightBlob;

TEST_F(GemmTest, RoundsToNearestEven) {
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
TEST_F(GemmTest, RoundsInTheOrderOfFragments) {
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

// Every value in its place, each place once, zeros beyond K.
TEST_F(GemmTest, RoundsInTheOrderOfRegisters) {
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
TEST_F(GemmTest, DecodesRunsOf16) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kCols = 512;
  for (const DType type : kGemmFormats) {
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

TEST_F(GemmTest, TakesWhatItCanRun) {
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

TEST_F(GemmTest, WorkHoldsX) {
  for (const std::int64_t T : {1, 16, 33, 4096}) {
    for (const std::int64_t K : {8, 64, 7168}) EXPECT_GE(2 * cl::GemmWorkFloats(T, K), T * K);
  }
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

}  // namespace
}  // namespace tandem
