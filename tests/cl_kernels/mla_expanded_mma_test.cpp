// ctest: opencl
// MLA's expanded form on matrix units.
#include <memory>

#include "tests/support/mla_expanded_fixture.h"

namespace tandem {
namespace {

using Case = test::ExpandedCase;
using test::MlaExpandedTest;
using test::Shapes;

// The forms on matrix units against the same sums in double over what they round.
class MlaExpandedMmaTest : public MlaExpandedTest {
 protected:
  void SetUp() override {
    MlaExpandedTest::SetUp();
    if (IsSkipped()) return;
    const cl::DeviceTraits traits = cl::TraitsOf(device());
    if (traits.nv_compute < 80) GTEST_SKIP() << device().info().name << " has no mma.sync";
    for (const int most : {89, 90}) {
      if (most == 90 && traits.nv_compute < 90) continue;
      cl::DeviceTraits limited = traits;
      limited.nv_compute = std::min(traits.nv_compute, most);
      forms_.push_back(std::make_unique<cl::Kernels>(device(), cl::DefaultCacheDir(), limited));
    }
  }
  void CheckMma(const Case& c) {
    Prepare(c);
    for (std::size_t i = 0; i < forms_.size(); ++i) {
      CheckForm(c, *forms_[i], true, 0x1p-8 / 0x1p-23, i == 0 ? "mma.sync" : "wgmma");
    }
  }
  std::vector<std::unique_ptr<cl::Kernels>> forms_;  // without wgmma, with it
};

TEST_P(MlaExpandedMmaTest, Remainders) {
  for (const std::int64_t T : {1, 17, 64, 65, 129, 200}) {
    Case c{T, T % 2 == 0 ? 0 : 70};
    c.R = 64;
    CheckMma(c);
  }
}

TEST_P(MlaExpandedMmaTest, RunsOfKeysAreJoined) {
  Case c{70, 300};
  c.R = 64;
  c.room = 64;
  CheckMma(c);
  c.T = 200;
  c.prior = 0;
  CheckMma(c);
  c.size = 40.0F;
  CheckMma(c);
}

TEST_P(MlaExpandedMmaTest, CachesWeightsAndHeads) {
  for (const DType kv : {DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    Case c{40, 90, 18};
    c.R = 128;
    c.kv = kv;
    CheckMma(c);
  }
  for (const DType type : {DType::kF8E4M3, DType::kQ8_0, DType::kQ4_0}) {
    for (const bool joined : {true, false}) {
      Case c{40, 30};
      c.R = 128;
      c.weights = type;
      c.joined = joined;
      CheckMma(c);
    }
  }
  Case c{50, 100};
  CheckMma(c);
  c.gemm = false;
  CheckMma(c);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaExpandedMmaTest, ::testing::Values(Shapes::kCpu));

}  // namespace
}  // namespace tandem
