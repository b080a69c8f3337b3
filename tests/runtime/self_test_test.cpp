// ctest: opencl
// The self-test of devices (faults.md, F58): what a sound device passes, and what it says of one
// that computes wrong numbers.
#include "runtime/self_test.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "runtime/doctor.h"
#include "tests/support/cl_fixture.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

class SelfTest : public test::ClTest {
 protected:
  cl::Kernels& kernels() {
    static cl::Kernels kernels(device(), "");
    return kernels;
  }
  // The block format with the most parts, and one other: linear_test and experts_test have every
  // format, and compile as long as that takes.
  static SelfTestScope Scope() {
    SelfTestScope scope;
    scope.formats = {DType::kBF16, DType::kQ6_K};
    scope.panel_formats = {DType::kQ6_K};
    scope.kv_types = {DType::kF16};
    return scope;
  }
};

TEST(NormalizedErrorTest, IsZeroForTheSameAndNaNForWhatIsNoNumber) {
  const std::vector<double> want{1, -2, 2};
  const auto error = [&](const std::vector<float>& got) { return NormalizedError(want, got); };
  EXPECT_EQ(error({1, -2, 2}), 0);
  EXPECT_DOUBLE_EQ(error({1, -2, 5}), 1);
  EXPECT_TRUE(std::isnan(error({1, -2})));
  EXPECT_TRUE(std::isnan(error({1, std::numeric_limits<float>::quiet_NaN(), 2})));
  EXPECT_FALSE((SelfTestRow{"", "", "", std::nan(""), 1}.passes()));
}

TEST(WorstOfFamiliesTest, ComparesByTheBoundsAndKeepsTheOrder) {
  const std::vector<SelfTestRow> rows{{"b", "1", "", 0, 0},
                                      {"a", "2", "", 1e-6, 1e-5},
                                      {"a", "3", "", 5e-11, 1e-10},
                                      {"b", "4", "", 1e-9, 1e-5},
                                      {"a", "5", "", 1e-6, 1e-4}};
  const std::vector<SelfTestRow> worst = WorstOfFamilies(rows);
  ASSERT_EQ(worst.size(), 2U);
  EXPECT_EQ(worst[0].shape, "4");
  EXPECT_EQ(worst[1].shape, "3");
}

TEST(RequirePassedTest, NamesTheDeviceAndTheFamily) {
  ClDeviceInfo info;
  info.name = "a card";
  info.driver_version = "1.2";
  RequirePassed(std::vector<SelfTestRow>{{"a", "1", "", 1, 1}}, info);
  try {
    RequirePassed(std::vector<SelfTestRow>{{"a", "1", "F32", 1, 1}, {"MLA", "2", "BF16", 2, 1}},
                  info);
    FAIL() << "wrong numbers pass";
  } catch (const OpenClError& e) {
    const std::string message = e.what();
    for (const char* part : {"'a card'", "driver 1.2", "wrong numbers", "'MLA' (2, BF16)", "of 2,",
                             "at most 1;", "--device none"}) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    }
  }
}

TEST_F(SelfTest, ASoundDevicePassesInEveryFamily) {
  for (const unsigned seed : {1U, 2U}) {
    const std::vector<SelfTestRow> rows = RunSelfTest(kernels(), Scope(), seed);
    std::set<std::string> families;
    for (const SelfTestRow& row : rows) {
      EXPECT_TRUE(row.passes()) << row.family << ", " << row.shape << ", " << row.format << ": "
                                << row.error << " of " << row.bound;
      families.insert(row.family);
    }
    EXPECT_EQ(families, (std::set<std::string>{"MLA", "attention", "experts", "hand-over", "panels",
                                               "products", "router", "rows", "step feed"}));
  }
}

TEST_F(SelfTest, TheScopeChoosesFamiliesAndFormats) {
  SelfTestScope scope = Scope();
  scope.formats = {DType::kBF16, DType::kQ2_K};  // devices do not take the second
  scope.panel_formats.clear();
  scope.mla = scope.heads = scope.experts = scope.bf16 = scope.hand_over = scope.feed = false;
  for (const SelfTestRow& row : RunSelfTest(kernels(), scope)) {
    EXPECT_TRUE(row.family == "rows" || row.family == "products") << row.family;
    EXPECT_TRUE(row.format == "F32" || row.format == "BF16") << row.format;
  }
}

TEST_F(SelfTest, APassIsKeptAndAnotherScopeIsTestedAnew) {
  const test::TempFolder folder;
  SelfTestScope scope = Scope();
  scope.formats = {DType::kBF16};
  scope.panel_formats.clear();
  scope.mla = scope.heads = scope.experts = scope.hand_over = scope.feed = false;
  const auto files = [&] {
    return std::distance(std::filesystem::directory_iterator(folder.path()), {});
  };
  SelfTestOnce(kernels(), scope, folder.path());
  EXPECT_EQ(files(), 1);
  SelfTestOnce(kernels(), scope, folder.path());
  EXPECT_EQ(files(), 1);
  scope.bf16 = false;
  SelfTestOnce(kernels(), scope, folder.path());
  EXPECT_EQ(files(), 2);
}

TEST_F(SelfTest, TheDoctorHasALineForEachFamily) {
  SelfTestScope scope = Scope();
  scope.formats = {DType::kBF16};
  scope.panel_formats.clear();
  scope.mla = scope.heads = scope.experts = scope.hand_over = scope.feed = false;
  const std::vector<Finding> findings = CheckKernels(scope, Seconds(0.01));
  const std::size_t devices = ProbeClDevices().devices.size();
  ASSERT_EQ(findings.size(), 2 * devices);
  EXPECT_EQ(findings[0].name, "device 0: rows");
  EXPECT_EQ(findings[1].name, "device 0: products");
  for (const Finding& f : findings) EXPECT_EQ(f.health, Health::kOk) << f.name << ": " << f.found;
  EXPECT_TRUE(findings[1].found.starts_with("1 format, ")) << findings[1].found;
}

}  // namespace
}  // namespace tandem
