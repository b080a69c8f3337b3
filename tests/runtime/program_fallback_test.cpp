// ctest: opencl
// A driver that refuses inline PTX (faults.md, F53): a layer below the OpenCL loader lets no
// program build whose options ask for it, on a device that says it had it.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <string>

#include "cl_kernels/programs.h"
#include "runtime/self_test.h"
#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

// The loader reads it at the first call.
[[maybe_unused]] const bool kLayer = [] {
  setenv("OPENCL_LAYERS", TANDEM_CL_FAULTS_LAYER, 1);
  setenv("TANDEM_CL_REFUSE", "NV_COMPUTE=80,NV_COMPUTE=90,TEAMS=3", 1);
  setenv("TANDEM_CL_FAULTS", "clCreateKernelsInProgram:1:-5", 1);
  return true;
}();

using cl::Program;

cl::DeviceTraits NvTraits(int nv_compute) {
  cl::DeviceTraits traits = cl::CpuTraits(4);
  traits.nv_compute = nv_compute;
  traits.wgmma_products = true;
  return traits;
}

class ProgramFallback : public test::ClTest {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    cl::DeviceTraits refused = NvTraits(0);
    refused.teams = 3;
    cl::Programs programs(device(), refused, "");
    try {
      programs.Build(Program::kKvCache, DType::kF32);
      GTEST_SKIP() << "this OpenCL loader loads no layers";
    } catch (const OpenClError& error) {
      refusal_ = error.what();
    }
  }
  std::string refusal_;  // of what is refused in its generic form
};

TEST_F(ProgramFallback, GenericFormsComputeWhatPtxWould) {
  for (const int nv_compute : {80, 90}) {
    cl::Kernels kernels(device(), "", NvTraits(nv_compute));
    SelfTestScope scope;
    scope.formats = {DType::kBF16, DType::kQ6_K};
    scope.kv_types = {DType::kF16};
    kernels.Prepare(scope.formats, DType::kF16);
    for (const SelfTestRow& row : RunSelfTest(kernels, scope)) {
      EXPECT_TRUE(row.passes()) << row.family << ", " << row.shape << ", " << row.format << ": "
                                << row.error << " of " << row.bound;
    }
    const std::string all = fmt::format("{}", fmt::join(kernels.refusals(), "\n"));
    for (const char* program : {"'matmul'", "'gemm'", "'mla'", "'mla_heads'", "'rows'"}) {
      EXPECT_NE(all.find(program), std::string::npos) << program << " in: " << all;
    }
    EXPECT_NE(all.find("CL_BUILD_PROGRAM_FAILURE"), std::string::npos) << all;
    const std::set<std::string> once(kernels.refusals().begin(), kernels.refusals().end());
    EXPECT_EQ(once.size(), kernels.refusals().size()) << all;
  }
}

TEST_F(ProgramFallback, ThePatchedFormsAreLeftOut) {
  cl::Programs programs(device(), NvTraits(90), "");
  EXPECT_EQ(programs.NvComputeSoFar(Program::kMlaWgmma, DType::kF16), 90);
  EXPECT_EQ(programs.NvCompute(Program::kMlaWgmma, DType::kF16), 0);
  EXPECT_EQ(programs.NvComputeSoFar(Program::kMlaWgmma, DType::kF16), 0);
  EXPECT_FALSE(programs.HasWgmma());
  programs.Build(Program::kMlaWgmma, DType::kF16);  // nothing to build
  EXPECT_THROW(programs.Kernel(Program::kMlaWgmma, DType::kF16, "mla_wgmma_64"), OpenClError);
  EXPECT_EQ(programs.refusals().size(), 2U);
}

// A program without PTX in it, on a device with some: it builds, and does not load the first time.
TEST_F(ProgramFallback, WhatBuildsAndDoesNotLoadIsBuiltWithout) {
  cl::Programs programs(device(), NvTraits(1), "");
  EXPECT_EQ(programs.NvCompute(Program::kKvCache, DType::kF16), 0);
  ASSERT_EQ(programs.refusals().size(), 1U);
  EXPECT_NE(programs.refusals()[0].find("'kv_cache' do not load: CL_OUT_OF_RESOURCES"),
            std::string::npos)
      << programs.refusals()[0];
  EXPECT_NE(programs.Kernel(Program::kKvCache, DType::kF16, "kv_append"), nullptr);
  EXPECT_EQ(programs.NvCompute(Program::kKvCache, DType::kF32), 1);
}

TEST_F(ProgramFallback, WithoutAGenericFormTheErrorHasTheLog) {
  for (const char* part : {"'kv_cache' does not compile", "CL_BUILD_PROGRAM_FAILURE", "TEAMS=3"}) {
    EXPECT_NE(refusal_.find(part), std::string::npos) << part << " in: " << refusal_;
  }
}

}  // namespace
}  // namespace tandem
