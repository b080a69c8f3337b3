// ctest: unit
// The cost model against sums written by hand, and the properties that its users rely on.
#include "placement/cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "invented.h"
#include "placement/cost_rates.h"

namespace tandem {
namespace {

using test::kGiB;

constexpr double kHostRead = 40e9;    // bytes per second
constexpr double kDeviceRead = 1e12;  // of the GPU
constexpr double kHandOut = 2e-6;
constexpr double kLaunch = 5e-6;

// A table that is exact at every point: seconds = f(a, b, c), a power law between its ends.
template <class F>
RateTable Power(F&& f) {
  RateTable table;
  table.axes = {{{1, 1 << 20}, {1, 1 << 20}, {1, 1 << 12}}};
  for (const std::int64_t a : table.axes[0]) {
    for (const std::int64_t b : table.axes[1]) {
      for (const std::int64_t c : table.axes[2]) {
        table.seconds.push_back(f(double(a), double(b), double(c)));
      }
    }
  }
  return table;
}

// Weights are read once and rows cost nothing: seconds = bytes / rate.
RateTable Reading(double rate) {
  return Power([rate](double n, double k, double) { return n * k * 2 / rate; });
}
RateTable ReadingExperts(double rate) {
  return Power(
      [rate](double elements, double experts, double) { return elements * experts * 2 / rate; });
}

TeamRates Team(int threads) {
  TeamRates team;
  team.threads = threads;
  team.linear[DType::kBF16] = Reading(kHostRead * threads / 8);
  team.experts[DType::kBF16] = ReadingExperts(kHostRead * threads / 8);
  team.attention = Power([](double, double, double) { return 1e-6; });
  team.hand_out_s = kHandOut;
  team.value_s = 1e-12;
  return team;
}

Machine HostMachine(int nodes = 1) {
  Machine machine = test::CpuMachine(nodes, 8 / nodes, 64 * kGiB);
  for (const Node& node : machine.nodes) {
    const int cores = static_cast<int>(node.cores.size());
    machine.rates.host.nodes.push_back(
        {node.os_index, {{1, kHostRead / 8}, {cores, kHostRead * cores / 8}}});
  }
  machine.rates.host.teams = {Team(1), Team(8)};
  return machine;
}

Machine GpuMachine(double read = kDeviceRead) {
  Machine machine = HostMachine();
  test::AddDevice(machine, "GPU", false, 24 * kGiB, 6 * kGiB);
  DeviceRates device;
  device.index = 0;
  device.read_bytes_per_s = read;
  device.gemm_flops = 1e13;
  device.pinned_write_bytes_per_s = device.pinned_read_bytes_per_s = 50e9;
  device.pageable_write_bytes_per_s = device.pageable_read_bytes_per_s = 10e9;
  device.launch_s = kLaunch;
  device.transfer_s = 4e-6;
  device.round_trip_s = 20e-6;
  device.hand_over_s = 25e-6;
  device.value_s = 1e-14;
  device.linear[DType::kBF16] = Reading(read);
  device.experts[DType::kBF16] = ReadingExperts(read);
  device.attention = Power([](double, double, double) { return 2e-5; });
  machine.rates.devices = {device};
  return machine;
}

const TensorList& Tensors() {
  static const TensorList tensors = ExpectedTensors(test::V2Lite(), DType::kBF16);
  return tensors;
}

const Config& V2Lite() {
  static const Config config = test::V2Lite();
  return config;
}

// Every role on `place`, the first `experts_on_device` experts of each layer on the device.
Plan MakePlanFor(const Machine& machine, Place place, int experts_on_device) {
  Plan plan;
  for (const Node& node : machine.nodes) plan.nodes.push_back({node.os_index, node.cores, 0});
  for (const Device& device : machine.devices) {
    PlanDevice d;
    d.index = device.index;
    d.shares_cores = device.shares_cores;
    plan.devices.push_back(d);
  }
  plan.head = place;
  for (std::int64_t i = 0; i < V2Lite().num_hidden_layers; ++i) {
    LayerPlan& layer = plan.layers.emplace_back();
    layer.attention = layer.dense = layer.router = layer.shared = place;
    layer.moe = V2Lite().IsMoeLayer(i);
    if (!layer.moe) continue;
    layer.experts.resize(static_cast<std::size_t>(V2Lite().n_routed_experts));
    for (int e = 0; e < experts_on_device; ++e) layer.experts[std::size_t(e)] = Place::Device(0);
  }
  return plan;
}

double DecodeSeconds(const Machine& machine, const Plan& plan) {
  const CostModel cost(V2Lite(), Tensors(), machine, nullptr);
  return cost.Step(plan, Phase::kDecode, 1, 512, 1).seconds;
}

TEST(Cost, DecodeOnTheCpuReadsTheActiveWeights) {
  const Machine machine = HostMachine();
  const CostModel cost(V2Lite(), Tensors(), machine, nullptr);
  const StepCost step = cost.Step(MakePlanFor(machine, Place::Host(), 0), Phase::kDecode, 1, 1, 1);
  // The embedding's other rows and kv_b, which the attention table stands for, are not read here.
  double bytes = 0;
  for (const TensorInfo& t : Tensors().all()) {
    if (t.shape.size() < 2 || t.role == Role::kEmbedding || t.part == Part::kKvB) continue;
    const double share = t.role == Role::kRouted ? 6.0 / 64 : 1;
    bytes += share * 2 * static_cast<double>(t.elements());
  }
  const double overheads = 27 * 20e-6;  // attention's table, hand-outs and norms
  EXPECT_GE(step.seconds, bytes / kHostRead * 0.999);
  EXPECT_LE(step.seconds, bytes / kHostRead + overheads);
  EXPECT_EQ(step.limit, Limit::kHostMemory);
  EXPECT_EQ(step.device, 0);
  EXPECT_EQ(step.hand_over, 0);
}

// Attention and the choice are beside the CPU's part then, but for the first layer's.
TEST(Cost, DeferralHidesTheFasterSide) {
  const Machine machine = GpuMachine();
  const CostModel cost(V2Lite(), Tensors(), machine, nullptr);
  Plan plan = MakePlanFor(machine, Place::Device(0), 0);
  const auto step = [&](bool deferral, std::int64_t rows) {
    plan.deferral = deferral;
    return cost.Step(plan, Phase::kDecode, rows, 512, rows);
  };
  const StepCost off = step(false, 1);
  const StepCost on = step(true, 1);
  EXPECT_EQ(on.host, off.host);
  EXPECT_EQ(on.device, off.device);
  EXPECT_LT(on.seconds, off.seconds);
  EXPECT_GE(on.seconds, std::max(on.host, on.device));
  EXPECT_NEAR(on.seconds, on.host + on.device - on.overlap + on.transfer + on.hand_over, 1e-12);
  // The CPU's part is the longer one: attention of 25 of the 26 MoE layers is hidden, whose kernel
  // alone takes 20 us in GpuMachine.
  EXPECT_GT(on.host, on.device);
  EXPECT_GE(off.seconds - on.seconds, 25 * 15e-6);
  EXPECT_EQ(step(true, 33).seconds, step(false, 33).seconds);
  plan = MakePlanFor(machine, Place::Device(0), static_cast<int>(V2Lite().n_routed_experts));
  EXPECT_EQ(step(true, 1).seconds, step(false, 1).seconds) << "nothing hands over";
}

TEST(Cost, MoreThreadsAndMoreBandwidthAreFaster) {
  const Machine machine = HostMachine();
  double before = 1e9;
  for (const std::size_t cores : {1U, 2U, 4U, 8U}) {
    Plan plan = MakePlanFor(machine, Place::Host(), 0);
    plan.nodes[0].cores.resize(cores);
    const double seconds = DecodeSeconds(machine, plan);
    EXPECT_LT(seconds, before) << cores << " cores";
    before = seconds;
  }
}

TEST(Cost, ThreadsBetweenMeasuredTeamsLieBetweenThem) {
  const Machine machine = HostMachine();
  Plan plan = MakePlanFor(machine, Place::Host(), 0);
  plan.nodes[0].cores.resize(4);
  const TeamCost team(machine.rates.host, plan);
  // Both ends are linear in threads, and so is what lies between.
  const double expected = 1000.0 * 2000 * 2 / (kHostRead / 2);
  EXPECT_NEAR(team.Linear(DType::kBF16, 1000, 2000, 1) / expected, 1, 1e-9);
}

TEST(Cost, ExpertsOnTheDeviceTakeLoadOffTheCpu) {
  const Machine machine = GpuMachine();
  double before = DecodeSeconds(machine, MakePlanFor(machine, Place::Device(0), 0));
  for (const int experts : {8, 16, 32, 48, 64}) {
    const double seconds = DecodeSeconds(machine, MakePlanFor(machine, Place::Device(0), experts));
    EXPECT_LT(seconds, before) << experts << " experts on the device";
    before = seconds;
  }
}

TEST(Cost, TheSlowerSideOfEachLayerCounts) {
  // Both sides equally fast: with 3 of 6 experts each in the mean, the slower side has more.
  const Machine machine = GpuMachine(kHostRead);
  const CostModel cost(V2Lite(), Tensors(), machine, nullptr);
  const Plan plan = MakePlanFor(machine, Place::Device(0), 32);
  const StepCost step = cost.Step(plan, Phase::kDecode, 1, 1, 1);
  const double expert_bytes = 3.0 * 2048 * 1408 * 2;
  const double mean = 26 * 3 * expert_bytes / kHostRead;
  EXPECT_GT(step.host, mean * 0.99);
  // Binomial(6, 1/2): the mean of the larger side is 3.9375 experts.
  const double both = step.host + step.device - step.overlap;
  EXPECT_GT(both, mean * 3.9 / 3);
}

TEST(Cost, RoutingStatisticsMoveTheLoad) {
  const Machine machine = GpuMachine();
  RoutingStatistics hot;
  hot.layers = V2Lite().num_hidden_layers;
  hot.experts = V2Lite().n_routed_experts;
  RoutingDomain& domain = hot.domains.emplace_back();
  for (RoutingCounts& counts : domain.phases) {
    counts.tokens = 1000;
    for (std::int64_t l = 0; l < hot.layers; ++l) {
      counts.counts.emplace_back();
      if (!V2Lite().IsMoeLayer(l)) continue;
      for (int e = 0; e < 64; ++e) counts.counts.back().push_back(e < 8 ? 600 : 1200 / 56);
    }
  }
  const CostModel uniform(V2Lite(), Tensors(), machine, nullptr);
  const CostModel skewed(V2Lite(), Tensors(), machine, &hot);
  const Plan plan = MakePlanFor(machine, Place::Device(0), 8);
  EXPECT_NEAR(DeviceHitRate(uniform, plan, Phase::kDecode), 8.0 / 64, 1e-9);
  EXPECT_NEAR(DeviceHitRate(skewed, plan, Phase::kDecode), 0.8, 0.01);
  EXPECT_LT(skewed.Step(plan, Phase::kDecode, 1, 64, 1).seconds,
            uniform.Step(plan, Phase::kDecode, 1, 64, 1).seconds);
}

TEST(Cost, AnUnevenSplitOverNodesCosts) {
  const Machine machine = HostMachine(2);
  Plan plan = MakePlanFor(machine, Place::Host(), 0);
  const double even = DecodeSeconds(machine, plan);
  plan.nodes[0].share = 0.75;
  plan.nodes[1].share = 0.25;
  EXPECT_NEAR(DecodeSeconds(machine, plan) / even, 1.5, 0.05);
}

TEST(Cost, StreamingIsBoundByPcie) {
  const Machine machine = GpuMachine();
  const CostModel cost(V2Lite(), Tensors(), machine, nullptr);
  Plan plan = MakePlanFor(machine, Place::Device(0), 0);
  plan.stream_prefill = true;
  const StepCost step = cost.Step(plan, Phase::kPrefill, 512, 256, 1);
  const double bytes = 26.0 * 64 * 3 * 2048 * 1408 * 2;
  EXPECT_GT(step.seconds, bytes / 50e9 * 0.99);
  EXPECT_EQ(step.limit, Limit::kTransfer);
}

TEST(Cost, PredictionCountsChunksAndSequences) {
  const Machine machine = HostMachine();
  const CostModel cost(V2Lite(), Tensors(), machine, nullptr);
  Plan plan = MakePlanFor(machine, Place::Host(), 0);
  plan.max_rows = 256;
  const Prediction one = cost.Predict(plan, {1, 256, 32});
  const Prediction three = cost.Predict(plan, {1, 768, 32});
  EXPECT_NEAR(three.time_to_first_token_s / one.time_to_first_token_s, 3, 0.2);
  const Prediction four = cost.Predict(plan, {4, 256, 32});
  EXPECT_GT(four.decode_tokens_per_s, one.decode_tokens_per_s);
  EXPECT_LT(one.decode_low, one.decode_tokens_per_s);
  EXPECT_GT(one.decode_high, one.decode_tokens_per_s);
  const double seconds = cost.WorkloadSeconds(plan, {4, 256, 32});
  EXPECT_NEAR(seconds, 4 * one.time_to_first_token_s + 32 * four.decode_step.seconds,
              seconds * 1e-6);
}

TEST(Cost, TheRangeIsWiderForAssumedRates) {
  Machine machine = HostMachine();
  const Plan plan = MakePlanFor(machine, Place::Host(), 0);
  const auto width = [&](RatesOrigin origin) {
    machine.rates.origin = origin;
    const CostModel cost(V2Lite(), Tensors(), machine, nullptr);
    const Prediction p = cost.Predict(plan, {});
    return p.decode_high / p.decode_low;
  };
  EXPECT_LT(width(RatesOrigin::kMeasured), width(RatesOrigin::kFile));
  EXPECT_LT(width(RatesOrigin::kFile), width(RatesOrigin::kAssumed));
}

}  // namespace
}  // namespace tandem
