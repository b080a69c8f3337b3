// ctest: unit
// The list of step buffers: what it depends on, and what a plan does not use.
#include "placement/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "model/tensor_source.h"

namespace tandem::test {
namespace {

Config V3() { return OpenSynthetic("deepseek-v3:layers=5").config; }

Plan HostPlan(const Config& c) {
  Plan plan;
  plan.nodes = {{0, {0, 1, 2, 3}}};
  plan.layers.resize(c.num_hidden_layers);
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    plan.layers[i].moe = c.IsMoeLayer(i);
    if (plan.layers[i].moe) plan.layers[i].experts.resize(c.n_routed_experts);
  }
  plan.kv_blocks = 20;
  return plan;
}

std::set<std::string> Names(const std::vector<ScratchBuffer>& buffers) {
  std::set<std::string> names;
  for (const ScratchBuffer& b : buffers) {
    EXPECT_TRUE(names.insert(b.name).second) << b.name << " twice";
    EXPECT_GT(b.floats, 0) << b.name;
  }
  return names;
}

std::set<std::string> OnHost(const Config& c, const Plan& plan) {
  return Names(HostScratch(c, plan, UseOf(plan, Place::Host())));
}

std::set<std::string> OnDevice(const Config& c, const Plan& plan) {
  return Names(DeviceScratch(c, plan, UseOf(plan, Place::Device(0))));
}

TEST(Scratch, WithoutADeviceNothingIsForOne) {
  const Config c = V3();
  const auto names = OnHost(c, HostPlan(c));
  EXPECT_FALSE(names.contains("host_part"));
  EXPECT_FALSE(names.contains("hand_over"));
  EXPECT_FALSE(names.contains("h bf16"));
  for (const char* name : {"x", "h", "q", "act", "logits", "workers", "batch"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

TEST(Scratch, ExpertsAloneNeedNoMlpOrAttentionOnTheDevice) {
  const Config c = V3();
  Plan plan = HostPlan(c);
  plan.devices.resize(1);
  plan.layers.back().experts[3] = Place::Device(0);
  const ScratchUse use = UseOf(plan, Place::Device(0));
  EXPECT_TRUE(use.experts && use.any_device);
  EXPECT_FALSE(use.attention || use.mlp || use.router || use.head);
  EXPECT_EQ(OnDevice(c, plan),
            (std::set<std::string>{"h", "device_part", "router_choice", "act", "pair_out",
                                   "expert_table", "expert_lists", "hand_over", "meetings"}));
  EXPECT_TRUE(OnHost(c, plan).contains("host_part"));
}

TEST(Scratch, AHostThatOnlyEmbedsHasLittle) {
  const Config c = V3();
  Plan plan = HostPlan(c);
  plan.devices.resize(1);
  plan.head = Place::Device(0);
  for (LayerPlan& layer : plan.layers) {
    layer.attention = layer.dense = layer.router = layer.shared = Place::Device(0);
    std::ranges::fill(layer.experts, Place::Device(0));
  }
  std::set<std::string> names{"batch",     "wanted_rows", "x",      "routing", "pairs",
                              "hand_over", "greedy",      "argmax", "logits"};
  plan.step_ahead = StepAheadWish::kOff;
  EXPECT_EQ(OnHost(c, plan), names);
  EXPECT_FALSE(OnDevice(c, plan).contains("step feed"));
  plan.step_ahead = StepAheadWish::kOn;
  names.insert("step feed");
  EXPECT_EQ(OnHost(c, plan), names);
  EXPECT_TRUE(OnDevice(c, plan).contains("step feed"));
}

TEST(Scratch, GrowsWithRowsThreadsBlocksAndRounding) {
  const Config c = V3();
  const Plan plan = HostPlan(c);
  const auto bytes = [&](const Plan& p) {
    return SumBytes(HostScratch(c, p, UseOf(p, Place::Host())));
  };
  Plan more = plan;
  more.max_rows *= 2;
  EXPECT_GT(bytes(more), bytes(plan));
  more = plan;
  more.nodes[0].cores.push_back(4);
  EXPECT_GT(bytes(more), bytes(plan));
  more = plan;
  more.kv_blocks *= 2;
  EXPECT_GT(bytes(more), bytes(plan));
  more = plan;
  more.activation_type = DType::kBF16;
  EXPECT_GT(bytes(more), bytes(plan));
  more = plan;
  more.bf16_many_rows = true;
  EXPECT_GT(bytes(more), bytes(plan));
  more = plan;
  more.block_formats = true;
  EXPECT_GT(bytes(more), bytes(plan));
  more.precision = Precision::kExact;
  EXPECT_EQ(bytes(more), bytes(plan));
}

TEST(Scratch, StreamSlotsAreASixteenthOfTheDevice) {
  Plan plan;
  plan.stream.expert_bytes = std::uint64_t{25} << 20;  // 100 MiB a slot
  EXPECT_EQ(StreamSlots(plan), 3) << "no device";
  plan.devices.resize(1);
  PlanDevice& device = plan.devices[0];
  device.max_alloc_bytes = std::uint64_t{20} << 30;
  device.budget_bytes = std::uint64_t{16} << 30;
  EXPECT_EQ(StreamSlots(plan), 10);
  device.budget_bytes = std::uint64_t{2} << 30;
  EXPECT_EQ(StreamSlots(plan), 3);
  device.budget_bytes = std::uint64_t{200} << 30;
  EXPECT_EQ(StreamSlots(plan), 64);
  device.max_alloc_bytes = std::uint64_t{1} << 30;
  EXPECT_EQ(StreamSlots(plan), 10) << "they lie in one buffer";
  plan.stream.expert_bytes = 0;
  EXPECT_EQ(StreamSlots(plan), 3) << "nothing streams";
}

TEST(Scratch, LogitsOfSomeRowsOnly) {
  Plan plan;
  plan.max_rows = 512;
  plan.max_sequences = 4;
  EXPECT_EQ(LogitRows(plan), 64);
  plan.max_sequences = 100;
  EXPECT_EQ(LogitRows(plan), 100);
  plan.max_rows = 16;
  EXPECT_EQ(LogitRows(plan), 16);
}

}  // namespace
}  // namespace tandem::test
