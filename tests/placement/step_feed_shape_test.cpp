// ctest: unit
#include "placement/step_feed_shape.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "invented.h"
#include "placement/planner.h"
#include "placement/profile.h"
#include "real_shapes.h"

namespace tandem {
namespace {

using test::V2Lite;
using test::V2LiteTensors;

class StepFeedShapeTest : public testing::Test {
 protected:
  void TearDown() override { unsetenv("TANDEM_STEP_AHEAD"); }

  // V2-Lite on an invented GPU with memory of its own: all of it, or with 4 GiB what fits.
  // MakePlan checks that its search and its items count the same bytes.
  static Plan PlanOn(std::uint64_t gpu_gib, const char* ahead) {
    setenv("TANDEM_STEP_AHEAD", ahead, 1);
    const Config config = V2Lite();
    Profile profile;
    profile.context = 8192;
    if (gpu_gib >= 24) {
      profile.attention = profile.dense = profile.shared_experts = profile.router = profile.head =
          Side::kDevice;
      profile.experts = Profile::Experts::kShare;
      profile.experts_share = 1;
    }
    return MakePlan(config, V2LiteTensors(), test::GpuMachine(gpu_gib), profile, Precision::kFast);
  }
  static std::uint64_t Bytes(const Plan& plan, const char* ahead) {
    setenv("TANDEM_STEP_AHEAD", ahead, 1);
    std::uint64_t bytes = 0;
    for (const ScratchBuffer& b : HostScratch(V2Lite(), plan, UseOf(plan, Place::Host()))) {
      if (std::string_view(b.name) == "step feed") bytes += b.bytes();
    }
    return bytes;
  }
};

TEST_F(StepFeedShapeTest, IsPlannedWhereTheHostOnlyEmbedsAndItIsAskedFor) {
  const Plan on = PlanOn(80, "on"), off = PlanOn(80, "off");
  ASSERT_TRUE(OnlyEmbeds(on, UseOf(on, Place::Host())));
  const StepFeedShape shape(V2Lite(), on);
  EXPECT_EQ(shape.rows, StepFeedShape::kMostRows);
  EXPECT_EQ(Bytes(on, "on"), static_cast<std::uint64_t>(shape.words()) * sizeof(float));
  EXPECT_EQ(Bytes(off, "off"), 0U);
  EXPECT_EQ(on.host_bytes - off.host_bytes, Bytes(on, "on"));
  EXPECT_EQ(on.DeviceBytes(0), off.DeviceBytes(0));
}

TEST_F(StepFeedShapeTest, IsNotPlannedWhereTheHostComputes) {
  const Plan plan = PlanOn(4, "on");
  ASSERT_FALSE(plan.devices.empty());
  EXPECT_FALSE(OnlyEmbeds(plan, UseOf(plan, Place::Host())));
  EXPECT_EQ(Bytes(plan, "on"), 0U);
}

TEST_F(StepFeedShapeTest, HasRoomForABatchAndTwoSlots) {
  const Plan plan = PlanOn(80, "on");
  const StepFeedShape shape(V2Lite(), plan);
  EXPECT_EQ(shape.batch_words, BatchWords(V2Lite(), plan, shape.rows));
  EXPECT_GE(shape.slot(), shape.batch_words + shape.rows * shape.D);
  EXPECT_EQ(shape.words(), shape.first_slot() + 2 * shape.slot());
  for (const std::int64_t words : {shape.first_slot(), shape.first_row(), shape.slot()}) {
    EXPECT_EQ(words % 4, 0) << "16 bytes are loaded at once";
  }
}

TEST_F(StepFeedShapeTest, TheEnvironmentSaysOnOrOff) {
  unsetenv("TANDEM_STEP_AHEAD");
  EXPECT_FALSE(StepsAhead());
  setenv("TANDEM_STEP_AHEAD", "on", 1);
  EXPECT_TRUE(StepsAhead());
  setenv("TANDEM_STEP_AHEAD", "off", 1);
  EXPECT_FALSE(StepsAhead());
  setenv("TANDEM_STEP_AHEAD", "perhaps", 1);
  EXPECT_THROW(StepsAhead(), ConfigError);
}

}  // namespace
}  // namespace tandem
