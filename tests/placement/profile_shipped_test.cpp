// ctest: unit
// All that is shipped parses, says in its header what was measured, and plans DeepSeek-V2-Lite and
// DeepSeek-V3 on a machine that it is for, or is refused where its header says so.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "invented.h"
#include "memory/error.h"
#include "placement/planner.h"
#include "placement/profile.h"
#include "placement/profile_files.h"

namespace tandem {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Case {
  std::string profile;
  Machine machine;
  bool lite = true;  // whether V2-Lite in bf16 fits
  bool v3 = true;    // whether V3 in FP8 fits
  int devices = 1;   // that V3 needs; V2-Lite may be quicker on one
};

Machine TwoGpus() {
  Machine machine = test::GpuMachine(24);
  test::AddDevice(machine, "Invented GPU 48G", false, 48 * test::kGiB, 12 * test::kGiB);
  return machine;
}

std::vector<Case> Cases() {
  std::vector<Case> cases = {
      {"none", test::CpuMachine(2, 16, 1024 * test::kGiB), true, true, 0},
      {"two-sockets", test::CpuMachine(2, 32, 1024 * test::kGiB), true, true, 0},
      {"hybrid", test::GpuMachine(48)},
      {"device", test::GpuMachine(80), true, /*v3=*/false},
      {"pocl-ci", test::PoclMachine(), /*lite=*/false, /*v3=*/false},
      {"two-gpus", TwoGpus(), true, true, 2}};
  for (const int gib : {8, 16, 24, 48, 80, 141}) {
    cases.push_back({fmt::format("gpu-{}g", gib), test::GpuMachine(gib)});
  }
  return cases;
}

void ExpectPlan(const Case& c, const Config& config, DType dtype, bool fits, int least_devices) {
  const TensorList tensors = ExpectedTensors(config, dtype);
  const Profile profile = ReadProfile(c.profile);
  PlanOptions options;
  options.abilities.devices = 2;
  const auto plan = [&] { return MakePlan(config, tensors, c.machine, profile, options); };
  if (!fits) {
    test::Refusal(plan, ExitCode::kUnavailable);
    return;
  }
  const Plan made = plan();
  EXPECT_GE(static_cast<int>(made.devices.size()), least_devices);
  EXPECT_LE(static_cast<int>(made.devices.size()), c.devices);
  EXPECT_LE(made.HostMemoryBytes(), made.host_budget_bytes);
  for (std::size_t i = 0; i < made.devices.size(); ++i) {
    const std::uint64_t bytes = made.DeviceBytes(static_cast<int>(i));
    EXPECT_GT(bytes, 0U) << made.devices[i].name;
    EXPECT_LE(bytes, made.devices[i].budget_bytes) << made.devices[i].name;
  }
}

TEST(ShippedProfiles, PlanOnTheMachineTheyAreFor) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.profile);
    ExpectPlan(c, test::V2Lite(), DType::kBF16, c.lite, std::min(c.devices, 1));
    ExpectPlan(c, test::V3(), DType::kF8E4M3, c.v3, c.devices);
  }
}

TEST(ShippedProfiles, EachIsInTheProgramAndPlannedAbove) {
  std::set<std::string> planned;
  for (const Case& c : Cases()) planned.insert(c.profile);
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(TANDEM_SOURCE_DIR "/profiles")) {
    if (entry.path().extension() == ".yaml") files.insert(entry.path().stem());
  }
  std::set<std::string> built_in;
  for (const ShippedProfile& profile : ShippedProfiles()) {
    built_in.insert(std::string(profile.name));
    const std::string file = fmt::format("{}/profiles/{}.yaml", TANDEM_SOURCE_DIR, profile.name);
    std::ifstream stream(file);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(stream), {}), profile.text);
    EXPECT_THAT(std::string(profile.text), AllOf(StartsWith("# "), HasSubstr("measured"))) << file;
    ReadProfile(file);
  }
  EXPECT_EQ(files, planned);
  EXPECT_EQ(files, built_in);
}

}  // namespace
}  // namespace tandem
