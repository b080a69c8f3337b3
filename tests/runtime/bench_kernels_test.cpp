// ctest: opencl
// `tandem bench kernels`: that every kernel is timed with what it needs, and how the command ends.
// No test looks at how long anything takes.
#include "runtime/bench_kernels.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "memory/split_layout.h"
#include "runtime/bench_kernels_cases.h"
#include "runtime/bench_kernels_rate.h"
#include "tests/support/cl_fixture.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using BenchKernelsTest = test::ClTest;
using Json = nlohmann::json;

KernelReport Quick(const ClDevice& device, const std::string& only, ProgressSink* sink = nullptr) {
  return BenchKernels(device, {only, {}, /*quick=*/true}, sink);
}

TEST_F(BenchKernelsTest, TimesEveryKernel) {
  const KernelReport report = Quick(device(), "");
  EXPECT_FALSE(report.interrupted);
  for (const auto& [what, why] : report.failed) ADD_FAILURE() << what << ": " << why;
  std::set<std::string> kernels;
  for (const KernelFinding& f : report.findings) {
    SCOPED_TRACE(f.kernel + " " + f.shape + " " + f.format);
    kernels.insert(f.kernel);
    EXPECT_GT(f.time.seconds, 0);
    EXPECT_GE(f.time.spread, 0);
    EXPECT_EQ(f.limit == KernelLimit::kNone, f.kernel == "hand_over");
    EXPECT_EQ(f.share > 0, f.limit != KernelLimit::kNone);
  }
  EXPECT_EQ(kernels, (std::set<std::string>{"linear", "linear_f32", "linear_f8", "experts", "group",
                                            "rmsnorm", "router", "combine", "argmax", "mla_append",
                                            "mla_query", "mla_output", "mla_row", "mla_attention",
                                            "mla_expanded", "hand_over"}));
  for (const double limit :
       {report.limits.read_bytes_per_s_before, report.limits.read_bytes_per_s_after,
        report.limits.matrix_flops_per_s, report.limits.launch_s}) {
    EXPECT_GT(limit, 0);
  }
}

TEST_F(BenchKernelsTest, TheShareIsOfTheTightestLimit) {
  const KernelReport report = Quick(device(), "linear 64");
  ASSERT_FALSE(report.findings.empty());
  const KernelLimits& l = report.limits;
  for (const KernelFinding& f : report.findings) {
    EXPECT_EQ(f.kernel, "linear");
    const double bound =
        std::max({f.bytes / l.read_bytes_per_s(), f.flops / l.matrix_flops_per_s, l.launch_s});
    EXPECT_DOUBLE_EQ(f.share, bound / f.time.seconds) << f.shape;
  }
}

TEST_F(BenchKernelsTest, AWordThatNothingHasIsRefused) {
  try {
    Quick(device(), "frobnicate");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("--only frobnicate"), std::string::npos) << e.what();
  }
}

TEST_F(BenchKernelsTest, OtherShapesStandBeside) {
  const KernelReport report = BenchKernels(device(), {"rmsnorm", {"group=64"}, true}, nullptr);
  EXPECT_EQ(report.second, "group=64");
  ASSERT_EQ(report.findings.size(), 1U);
  ASSERT_TRUE(report.findings[0].second.has_value());
  EXPECT_GT(report.findings[0].second->seconds, 0);
}

// Wants to stop once the first kernel is being timed.
class StopsAtKernels final : public ProgressSink {
 public:
  void Begin(std::string_view what, std::uint64_t) override {
    begun_ += what.find("rmsnorm") != std::string_view::npos ? 1 : 0;
  }
  void Update(std::uint64_t) override { updates_ += begun_; }
  void End() override {}
  bool Cancelled() const override { return updates_ > 0; }

 private:
  int begun_ = 0;
  int updates_ = 0;
};

TEST_F(BenchKernelsTest, AnInterruptionKeepsWhatThereIs) {
  StopsAtKernels sink;
  const KernelReport report = Quick(device(), "rmsnorm", &sink);
  EXPECT_TRUE(report.interrupted);
  EXPECT_TRUE(report.findings.empty());
  EXPECT_GT(report.limits.read_bytes_per_s_before, 0);
  EXPECT_EQ(report.limits.read_bytes_per_s_after, 0);
}

bool Ordinary(float value) { return std::isnormal(value) && std::fabs(value) <= 2; }

TEST_F(BenchKernelsTest, WeightsAreOrdinaryNumbersInEveryFormat) {
  BenchMemory memory(device(), std::size_t{9} << 20);
  std::vector<std::uint8_t> bytes(memory.weight_bytes());
  for (int t = 0; t < kNumWeightFormats; ++t) {
    const auto type = static_cast<DType>(t);
    if (!IsDeviceFormat(type)) continue;
    SCOPED_TRACE(Name(type));
    memory.Fill(type);
    device().BlockingRead(memory.weights(), 0, bytes.data(), bytes.size());
    int strange = 0;
    for (std::size_t at = 0; at + 4 <= bytes.size() && strange == 0; at += 4) {
      std::uint16_t half = 0;
      float whole = 0;
      std::memcpy(&half, &bytes[at], 2);
      std::memcpy(&whole, &bytes[at], 4);
      const bool floats = type == DType::kF32;
      if (type == DType::kMXFP4) {
        strange += bytes[at] > 127 ? 1 : 0;  // 2^(e - 127) at most 1
      } else if (type == DType::kBF16) {
        strange += std::fabs(Bf16ToF32(half)) <= 1 ? 0 : 1;
      } else if (floats || type == DType::kF16) {
        strange += std::fabs(floats ? whole : F16ToF32(half)) <= 1 ? 0 : 1;
      } else {
        strange +=
            Ordinary(whole) && Ordinary(F16ToF32(half)) && Ordinary(E4M3ToF32(bytes[at])) ? 0 : 1;
      }
      EXPECT_EQ(strange, 0) << "at byte " << at << ": f32 " << whole << ", f16 " << F16ToF32(half);
    }
  }
}

TEST_F(BenchKernelsTest, MatricesFillTheMemoryAndDoNotOverlap) {
  const BenchMemory memory(device(), std::size_t{9} << 20);
  for (const DType type : {DType::kBF16, DType::kF8E4M3, DType::kQ6_K}) {
    const std::size_t bytes = BenchMemory::MatrixBytes(type, 200, 512);
    const auto matrices = memory.Matrices(type, 200, 512);
    ASSERT_EQ(matrices.size(), memory.weight_bytes() / bytes);
    for (std::size_t i = 0; i < matrices.size(); ++i) {
      EXPECT_EQ(matrices[i].offset, i * bytes);
      EXPECT_EQ(matrices[i].scale_offset % 256, 0U);
      EXPECT_GE(matrices[i].scale_offset, matrices[i].offset + SplitDataBytes(type, 200, 512));
    }
  }
  EXPECT_TRUE(memory.WhyNot(memory.weight_bytes(), 0).empty());
  EXPECT_NE(memory.WhyNot(memory.weight_bytes() + 1, 0), "");
  EXPECT_NE(memory.WhyNot(0, device().info().max_alloc_bytes + 1), "");
}

TEST_F(BenchKernelsTest, TheBareRateHasBothForms) {
  const MatrixRate plain(device(), 0);
  EXPECT_EQ(plain.unit(), "f32 multiply-add");
  EXPECT_GT(plain.Measure(), 0);
  if (cl::TraitsOf(device()).nv_compute < 80) return;
  const MatrixRate mma(device(), cl::TraitsOf(device()).nv_compute);
  EXPECT_GT(mma.Measure(), plain.Measure());
}

// ---- the program

struct Outcome {
  int code = -1;
  std::string out, err;
};

Outcome Tandem(const std::string& arguments, const std::string& environment = "") {
  const test::TempFolder folder;
  const std::string at = folder.path().string();
  const std::string command =
      environment + " " TANDEM_BINARY " " + arguments + " >" + at + "/out 2>" + at + "/err";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          test::ReadText(folder / "out"), test::ReadText(folder / "err")};
}

TEST(BenchKernelsCommand, WithoutADeviceItSaysSo) {
  const Outcome got = Tandem("bench kernels", "OCL_ICD_VENDORS=/nowhere");
  EXPECT_EQ(got.code, 69) << got.err;
  EXPECT_EQ(got.err.rfind("tandem: error: no OpenCL device", 0), 0U) << got.err;
}

TEST(BenchKernelsCommand, FlagsOfTheModelsBenchAreRefused) {
  for (const char* line : {"bench --depth 8 kernels", "bench kernels --depth 8", "bench kernel"}) {
    EXPECT_EQ(Tandem(line).code, 2) << line;
  }
}

TEST_F(BenchKernelsTest, TheProgramPrintsATableAndJson) {
  const Outcome text = Tandem("bench kernels --quick --only rmsnorm -q");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("streaming read"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("rmsnorm"), std::string::npos) << text.out;
  const Outcome got = Tandem("bench kernels --quick --only rmsnorm --output json -q");
  ASSERT_EQ(got.code, 0) << got.err;
  const Json json = Json::parse(got.out);
  ASSERT_EQ(json["kernels"].size(), 1U);
  EXPECT_EQ(json["kernels"][0]["kernel"], "rmsnorm");
  EXPECT_GT(json["limits"]["read_bytes_per_s_after"].get<double>(), 0);
  EXPECT_EQ(Tandem("bench kernels --device 1000").code, 69);
}

}  // namespace
}  // namespace tandem
