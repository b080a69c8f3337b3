// ctest: opencl
// An engine that went over to another plan is the engine that the plan would have made: the same
// bits, and the same bytes.
#include <gtest/gtest.h>

#include "memory/error.h"
#include "memory/usage.h"
#include "placement/planner.h"
#include "runtime/engine.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

std::vector<std::int32_t> SomeIds() {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 60; ++i) ids.push_back((i * 53 + 11) % 2000);
  return ids;
}

Plan PlanOf(const Model& model, const std::string& placement, std::int64_t chunk = 64) {
  Profile profile = Placement(placement);
  profile.chunk = chunk;
  const Machine machine =
      ReadMachine(NeedsDevice(placement) ? ProbeDevices::kYes : ProbeDevices::kNo);
  return MakePlan(model.config, model.tensors, machine, profile, Precision::kExact);
}

struct Seen {
  std::vector<float> logits;
  std::uint64_t host_bytes = 0;
  std::uint64_t device_bytes = 0;
};

Seen Look(Engine& engine) {
  Seen seen;
  const std::int32_t s = engine.NewSequence();
  seen.logits = Prefill(engine, s, SomeIds(), 50);
  engine.FreeSequence(s);
  seen.host_bytes = HostBufferBytes();
  if (!engine.plan().devices.empty()) {
    seen.device_bytes = DeviceBufferBytes(engine.plan().devices[0].index);
  }
  return seen;
}

Seen Fresh(const Plan& plan) {
  Engine engine(OpenCheckpoint(DemoDir()), plan);
  return Look(engine);
}

TEST(Apply, IsAsAFreshEngine) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const Model model = OpenCheckpoint(DemoDir());
  const std::vector<std::string> tour = {"half",           "device",      "experts_only",   "none",
                                         "router_on_host", "late_layers", "attention_only", "half"};
  std::vector<Seen> expected;
  for (const std::string& placement : tour) expected.push_back(Fresh(PlanOf(model, placement)));
  Engine engine(OpenCheckpoint(DemoDir()), PlanOf(model, "none"));
  for (std::size_t i = 0; i < tour.size(); ++i) {
    engine.Apply(PlanOf(model, tour[i]));
    const Seen seen = Look(engine);
    EXPECT_EQ(seen.logits, expected[i].logits)
        << tour[i] << ": " << WorstDifference(seen.logits, expected[i].logits);
    EXPECT_EQ(seen.host_bytes, expected[i].host_bytes) << tour[i];
    EXPECT_EQ(seen.device_bytes, expected[i].device_bytes) << tour[i];
  }
}

// Only what moves is read again.
TEST(Apply, WhatStaysIsNotLoaded) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const Model model = OpenCheckpoint(DemoDir());
  Engine engine(OpenCheckpoint(DemoDir()), PlanOf(model, "half"));
  Plan next = engine.plan();
  const std::size_t layer = next.layers.size() - 1;
  ASSERT_TRUE(next.layers[layer].moe);
  std::uint64_t moved = 0;
  for (std::size_t e = 0; e < 3; ++e) {
    Place& place = next.layers[layer].experts[e];
    place = place.on_device() ? Place::Host() : Place::Device(0);
    for (const Part part : {Part::kGate, Part::kUp, Part::kDown}) {
      moved += model.tensors.Get(Role::kRouted, part, static_cast<int>(layer), static_cast<int>(e))
                   .bytes();
    }
  }
  engine.Apply(next);
  EXPECT_EQ(engine.metrics().loaded_bytes, moved);
  EXPECT_EQ(Look(engine).logits, Fresh(next).logits);
  engine.Apply(next);
  EXPECT_EQ(engine.metrics().loaded_bytes, 0U);
}

TEST(Apply, ThreadsChunksAndSharesChange) {
  const Model model = OpenCheckpoint(DemoDir());
  Plan plan = PlanOf(model, "none");
  Engine engine(OpenCheckpoint(DemoDir()), plan);
  const std::vector<float> expected = Look(engine).logits;
  plan = PlanOf(model, "none", /*chunk=*/128);
  const PlanNode node = plan.nodes[0];
  plan.nodes = {node, node};
  plan.nodes[0].cores.resize(1);
  plan.nodes[0].share = 0.25;
  plan.nodes[1].cores.resize(1);
  plan.nodes[1].share = 0.75;
  engine.Apply(plan);
  EXPECT_EQ(engine.plan().max_rows, 128);
  EXPECT_EQ(Look(engine).logits, expected);
}

TEST(Apply, RefusesWhileSequencesExist) {
  const Model model = OpenCheckpoint(DemoDir());
  Engine engine(OpenCheckpoint(DemoDir()), PlanOf(model, "none"));
  const std::int32_t s = engine.NewSequence();
  EXPECT_THROW(engine.Apply(PlanOf(model, "none", 32)), UsageError);
  EXPECT_EQ(engine.Length(s), 0);
}

// A plan that cannot be obeyed leaves the engine with the one that it had.
TEST(Apply, AFailureGoesBack) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const Model model = OpenCheckpoint(DemoDir());
  Engine engine(OpenCheckpoint(DemoDir()), PlanOf(model, "half"));
  const Seen before = Look(engine);
  Plan next = PlanOf(model, "device");
  next.kv_blocks = std::int64_t{1} << 40;  // no device has that
  EXPECT_THROW(engine.Apply(next), Error);
  EXPECT_EQ(engine.plan().kv_blocks, PlanOf(model, "half").kv_blocks);
  const Seen after = Look(engine);
  EXPECT_EQ(after.logits, before.logits);
  EXPECT_EQ(after.host_bytes, before.host_bytes);
  EXPECT_EQ(after.device_bytes, before.device_bytes);
}

}  // namespace
}  // namespace tandem::test
