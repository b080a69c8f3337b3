// ctest: unit
#include "placement/step_feed_shape.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "invented.h"
#include "placement/planner.h"
#include "placement/profile.h"
#include "placement/scratch.h"
#include "real_shapes.h"

namespace tandem {
namespace {

using test::V2Lite;
using test::V2LiteTensors;

// V2-Lite on an invented GPU with memory of its own: all of it, or with 4 GiB what fits.
// MakePlan checks that its search and its items count the same bytes.
Plan PlanOn(std::uint64_t gpu_gib, StepAheadWish wish, bool shares_cores = false) {
  const Config config = V2Lite();
  Profile profile;
  profile.context = 8192;
  profile.step_ahead = wish;
  if (gpu_gib >= 24) {
    profile.attention = profile.dense = profile.shared_experts = profile.router = profile.head =
        Side::kDevice;
    profile.experts = Profile::Experts::kShare;
    profile.experts_share = 1;
  }
  Machine machine = test::GpuMachine(gpu_gib);
  machine.devices[0].shares_cores = shares_cores;
  return MakePlan(config, V2LiteTensors(), machine, profile, Precision::kFast);
}

std::uint64_t FeedBytes(const std::vector<ScratchBuffer>& buffers) {
  std::uint64_t bytes = 0;
  for (const ScratchBuffer& b : buffers) {
    if (std::string_view(b.name) == "step feed") bytes += b.bytes();
  }
  return bytes;
}
std::uint64_t HostBytes(const Plan& plan) {
  return FeedBytes(HostScratch(V2Lite(), plan, UseOf(plan, Place::Host())));
}
std::uint64_t DeviceBytes(const Plan& plan) {
  return FeedBytes(DeviceScratch(V2Lite(), plan, UseOf(plan, Place::Device(0))));
}

TEST(StepFeedShape, IsPlannedWhereADeviceLeadsAndItIsAskedFor) {
  const Plan on = PlanOn(80, StepAheadWish::kOn), off = PlanOn(80, StepAheadWish::kOff);
  ASSERT_TRUE(StepsAhead(on));
  EXPECT_FALSE(StepsAhead(off));
  const StepFeedShape shape(V2Lite(), on);
  EXPECT_EQ(shape.rows, StepFeedShape::kMostRows);
  EXPECT_EQ(HostBytes(on), static_cast<std::uint64_t>(shape.words()) * sizeof(float));
  EXPECT_EQ(DeviceBytes(on), StepFeedShape::kControl * sizeof(float));
  EXPECT_EQ(HostBytes(off), 0U);
  EXPECT_EQ(DeviceBytes(off), 0U);
  EXPECT_EQ(on.host_bytes - off.host_bytes, HostBytes(on));
  EXPECT_EQ(on.DeviceBytes(0) - off.DeviceBytes(0), DeviceBytes(on));
}

TEST(StepFeedShape, IsPlannedWhereTheHostHasExperts) {
  const Plan plan = PlanOn(4, StepAheadWish::kOn);
  const auto has_host = [](const LayerPlan& layer) {
    return std::ranges::find(layer.experts, Place::Host()) != layer.experts.end();
  };
  ASSERT_TRUE(std::ranges::any_of(plan.layers, has_host));
  EXPECT_TRUE(StepsAhead(plan));
  EXPECT_GT(HostBytes(plan), 0U);
  EXPECT_GT(DeviceBytes(plan), 0U);
}

TEST(StepFeedShape, IsNotPlannedWhereTheHostHasMoreThanExperts) {
  Plan plan = PlanOn(80, StepAheadWish::kOn);
  plan.head = Place::Host();
  EXPECT_FALSE(DeviceLeads(plan));
  EXPECT_EQ(HostBytes(plan), 0U);
  EXPECT_EQ(DeviceBytes(plan), 0U);
}

// Each part of the model by itself.
TEST(StepFeedShape, TakesAllButExpertsOnOneDevice) {
  const Plan all = PlanOn(80, StepAheadWish::kOn);
  const auto without = [&](auto change) {
    Plan plan = all;
    change(plan);
    return StepsAhead(plan);
  };
  EXPECT_TRUE(without([](Plan&) {}));
  EXPECT_FALSE(without([](Plan& p) { p.head = Place::Host(); }));
  EXPECT_FALSE(without([](Plan& p) { p.layers[3].attention = Place::Host(); }));
  EXPECT_FALSE(without([](Plan& p) { p.layers[0].dense = Place::Host(); }));
  EXPECT_FALSE(without([](Plan& p) { p.layers[3].router = Place::Host(); }));
  EXPECT_TRUE(without([](Plan& p) { p.layers[3].shared = Place::Host(); }));
  EXPECT_TRUE(without([](Plan& p) { p.layers.back().experts.back() = Place::Host(); }));
  EXPECT_FALSE(without([](Plan& p) { p.cache.slots = 1; }));
  EXPECT_TRUE(without([](Plan& p) { p.stream_prefill = true; }));
  EXPECT_FALSE(without([](Plan& p) { p.devices.push_back(p.devices[0]); }));
  EXPECT_FALSE(without([](Plan& p) { p.devices.clear(); }));
}

// What a model does not have is nowhere, whatever its place is called.
TEST(StepFeedShape, ModelsWithoutSharedOrWithoutAnyExpertsCount) {
  Config routed = V2Lite(), dense = V2Lite();
  routed.n_shared_experts = 0;
  dense.n_routed_experts = dense.n_shared_experts = dense.num_experts_per_tok = 0;
  dense.first_k_dense_replace = dense.num_hidden_layers;
  for (const Config& config : {routed, dense}) {
    const TensorList tensors = ExpectedTensors(config, DType::kBF16);
    for (const Side shared : {Side::kAuto, Side::kDevice, Side::kHost}) {
      Profile profile;
      profile.step_ahead = StepAheadWish::kOn;
      profile.shared_experts = shared;
      profile.experts = Profile::Experts::kShare;
      profile.experts_share = 1;
      const Plan plan = MakePlan(config, tensors, test::GpuMachine(80), profile, Precision::kFast);
      EXPECT_TRUE(StepsAhead(ParsePlan(ToJson(plan), "plan")));
      EXPECT_TRUE(StepsAhead(plan))
          << config.n_routed_experts << " experts, shared ones wanted: " << static_cast<int>(shared)
          << "\n"
          << ToText(plan);
    }
  }
}

TEST(StepFeedShape, AutoIsForGpus) {
  EXPECT_EQ(StepsAhead(PlanOn(80, StepAheadWish::kAuto)), kAutoStepAhead);
  EXPECT_FALSE(StepsAhead(PlanOn(80, StepAheadWish::kAuto, /*shares_cores=*/true)));
  EXPECT_TRUE(StepsAhead(PlanOn(80, StepAheadWish::kOn, /*shares_cores=*/true)));
}

TEST(StepFeedShape, ThePlanKeepsTheSetting) {
  for (const auto wish : {StepAheadWish::kAuto, StepAheadWish::kOn, StepAheadWish::kOff}) {
    const Plan plan = PlanOn(80, wish);
    EXPECT_EQ(ParsePlan(ToJson(plan), "plan").step_ahead, wish);
    EXPECT_EQ(ToText(plan).find("step_ahead: ") != std::string::npos, StepsAhead(plan));
  }
}

TEST(StepFeedShape, HasRoomForABatchAndTwoSlots) {
  const Plan plan = PlanOn(80, StepAheadWish::kOn);
  const StepFeedShape shape(V2Lite(), plan);
  EXPECT_EQ(shape.batch_words, BatchWords(V2Lite(), plan, shape.rows));
  EXPECT_GE(shape.slot(), shape.batch_words + shape.rows * shape.D);
  EXPECT_EQ(shape.words(), shape.first_slot() + 2 * shape.slot());
  for (const std::int64_t words : {shape.first_slot(), shape.first_row(), shape.slot()}) {
    EXPECT_EQ(words % 4, 0) << "16 bytes are loaded at once";
  }
}

}  // namespace
}  // namespace tandem
