// ctest: unit
// Plans that do not fit, and profiles that the model or the machine cannot serve.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "placement/planner.h"
#include "real_shapes.h"

namespace tandem {
namespace {

using test::kGiB;
using test::kMiB;
using test::OnDevice;
using test::PlanTiny;
using test::V2LiteTensors;
using test::V3Tensors;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(PlanRefusals, ADemandThatDoesNotFitIsRefusedWithATable) {
  Profile profile;
  profile.attention = profile.dense = profile.shared_experts = Side::kDevice;
  profile.experts = Profile::Experts::kShare;
  profile.experts_share = 1;
  const std::string text = test::Refusal(
      [&] { MakePlan(test::V3(), V3Tensors(), test::GpuMachine(24), profile, Precision::kFast); },
      ExitCode::kUnavailable);
  std::printf("%s\n", text.c_str());
  EXPECT_THAT(text, AllOf(HasSubstr("does not fit"), HasSubstr("device0"), HasSubstr("21.60 GiB"),
                          HasSubstr("'routed experts'"), HasSubstr("of its 14848 parts"),
                          HasSubstr("placement.routed_experts")));
}

TEST(PlanRefusals, AHostThatIsTooSmallIsRefused) {
  const std::string text = test::Refusal(
      [&] { MakePlan(test::V3(), V3Tensors(), test::GpuMachine(24, 256), {}, Precision::kFast); },
      ExitCode::kUnavailable);
  EXPECT_THAT(text, AllOf(HasSubstr("does not fit"), HasSubstr("host: the largest item"),
                          HasSubstr("243.20 GiB"), HasSubstr("routed experts")));
}

// PoCL's memory is the host's: what fits each alone need not fit both.
TEST(PlanRefusals, MemoryOfASharingDeviceCountsOnTheHost) {
  Machine machine = test::PoclMachine();
  Profile profile = OnDevice("0", 0.125);
  const Plan plan = MakePlan(test::V2Lite(), V2LiteTensors(), machine, profile, Precision::kFast);
  machine.memory_limit_bytes = (plan.host_bytes + plan.DeviceBytes(0) / 2) / 19 * 20;
  profile.device_memory_bytes = plan.devices[0].budget_bytes;
  const std::string text = test::Refusal(
      [&] { MakePlan(test::V2Lite(), V2LiteTensors(), machine, profile, Precision::kFast); },
      ExitCode::kUnavailable);
  EXPECT_THAT(text, HasSubstr("no device with memory of its own"));
}

TEST(PlanRefusals, ScratchAloneCanBeTooMuch) {
  Profile profile;
  profile.chunk = 512;
  profile.device_memory_bytes = kMiB;
  const Plan plan = PlanTiny(test::GpuMachine(8), profile);  // auto: the host, and it says so
  EXPECT_TRUE(plan.devices.empty());
  EXPECT_THAT(ToText(plan), HasSubstr("nothing that may go there fits"));
  profile.device = "0";
  EXPECT_THAT(
      test::Refusal([&] { PlanTiny(test::GpuMachine(8), profile); }, ExitCode::kUnavailable),
      AllOf(HasSubstr("the least, "), HasSubstr("with the activations of a step of 512 rows"),
            HasSubstr("its budget is 1.00 MiB"), HasSubstr("raise memory.device"),
            HasSubstr("workload.chunk")));
}

TEST(PlanRefusals, WhatTheModelOrMachineLacksIsAConfigError) {
  const Machine machine = test::GpuMachine(8);
  const auto refusal = [&](const Profile& profile) {
    return test::Refusal([&] { PlanTiny(machine, profile); }, ExitCode::kConfig);
  };
  Profile profile;
  profile.file = "p.yaml";
  profile.experts_order = {0, 32};
  EXPECT_THAT(refusal(profile), AllOf(HasSubstr("p.yaml"), HasSubstr("expert 32")));
  profile.experts_order = {4, 4};
  EXPECT_THAT(refusal(profile), HasSubstr("named twice"));
  profile = {};
  profile.device_layers = {0, 5};
  EXPECT_THAT(refusal(profile), HasSubstr("layers 0 to 4"));
  profile = {};
  profile.device_memory_bytes = 9 * kGiB;
  EXPECT_THAT(refusal(profile), AllOf(HasSubstr("9.00 GiB"), HasSubstr("8.00 GiB")));
  profile = {};
  profile.host_memory_bytes = 1025 * kGiB;
  EXPECT_THAT(refusal(profile), HasSubstr("memory.host"));
  profile = {};
  profile.chunk = 0;
  EXPECT_THAT(refusal(profile), HasSubstr("workload.chunk"));
  profile = {};
  profile.context = -5;
  EXPECT_THAT(refusal(profile), HasSubstr("workload.context"));
}

}  // namespace
}  // namespace tandem
