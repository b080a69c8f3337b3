// ctest: unit
// What must hold of every plan, on machines that do not exist here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>

#include "memory/error.h"
#include "model_case.h"
#include "placement/cost.h"
#include "placement/offers.h"
#include "placement/plan_input.h"
#include "placement/planner.h"
#include "placement/search_devices.h"

namespace tandem {
namespace {

using test::Case;
using test::kGiB;
using test::ModelCase;
using test::PlanOf;
using test::Several;
using ::testing::AllOf;
using ::testing::HasSubstr;

double Seconds(const ModelCase& model, const Machine& machine, const Profile& profile,
               const Plan& plan) {
  const PlanTask task(model.config, model.tensors, machine, {});
  return task.cost.WorkloadSeconds(plan, WorkloadOf(profile));
}

void ExpectFits(const Plan& plan, const Machine& machine) {
  EXPECT_LE(plan.HostMemoryBytes(), plan.host_budget_bytes);
  for (std::size_t d = 0; d < plan.devices.size(); ++d) {
    EXPECT_LE(plan.DeviceBytes(static_cast<int>(d)), plan.devices[d].budget_bytes);
    EXPECT_GT(plan.DeviceBytes(static_cast<int>(d)), 0u) << "an idle device is left out";
  }
  double shares = 0;
  for (const PlanNode& node : plan.nodes) shares += node.share;
  EXPECT_TRUE(shares == 0 || std::abs(shares - 1) < 1e-9) << shares;
  std::uint64_t weights = 0;
  for (const PlanItem& item : plan.items) {
    const bool weight = item.what != "KV cache" && item.what != "scratch" &&
                        item.what != "program" && item.what != "host copies of norms";
    if (!item.place.on_device() && weight) weights += item.bytes;
  }
  for (const PlanNode& node : plan.nodes) {
    const double share = shares == 0 ? 1.0 / static_cast<double>(plan.nodes.size()) : node.share;
    const auto at = std::ranges::find(machine.nodes, node.os_index, &Node::os_index);
    EXPECT_LE(share * static_cast<double>(weights), 1.0001 * static_cast<double>(at->free_bytes))
        << "node " << node.os_index;
  }
}

struct Invented {
  std::string name;
  Machine machine;
  std::vector<std::string> models;  // that fit
};

std::vector<Invented> Machines() {
  return {{"server", test::Server(), {"V2-Lite", "V2", "V3"}},
          {"workstation", test::Workstation(), {"V2-Lite"}},
          {"laptop", test::Laptop(), {"V2-Lite"}},
          {"8 nodes", test::EightNodes(), {"V2-Lite", "V2", "V3"}},
          {"PoCL", test::PoclMachine(8), {}}};
}

TEST(PlanProperties, FitsAndIsQuick) {
  for (const Invented& m : Machines()) {
    for (const std::string& name : m.models) {
      const auto start = std::chrono::steady_clock::now();
      const Plan plan = PlanOf(Case(name), m.machine);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      const Prediction& p = plan.prediction;
      std::printf(
          "%-11s %-7s: %zu devices, chunk %4ld, prefill %8.1f, decode %7.2f tokens/s, "
          "first token %.2f s; planned in %.3f s\n",
          m.name.c_str(), name.c_str(), plan.devices.size(), static_cast<long>(plan.max_rows),
          p.prefill_tokens_per_s, p.decode_tokens_per_s, p.time_to_first_token_s, seconds.count());
      SCOPED_TRACE(m.name + " " + name);
      ExpectFits(plan, m.machine);
      EXPECT_GT(p.decode_tokens_per_s, 0);
      EXPECT_GT(p.prefill_tokens_per_s, 0);
    }
  }
}

TEST(PlanProperties, WhatDoesNotFitIsRefusedWithTheBestCase) {
  for (const auto& [name, machine] : std::vector<std::pair<std::string, Machine>>{
           {"V3", test::Laptop()}, {"V2", test::Laptop()}, {"V3", test::Workstation()}}) {
    const auto start = std::chrono::steady_clock::now();
    const std::string text =
        test::Refusal([&] { PlanOf(Case(name), machine); }, ExitCode::kUnavailable);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("refused in %.3f s: %s\n", seconds.count(), text.c_str());
    EXPECT_THAT(text, AllOf(HasSubstr("does not fit"), HasSubstr("missing in the best case")));
  }
}

TEST(PlanProperties, TheOrderOfDevicesDoesNotMatter) {
  Machine machine = test::Workstation();
  const Plan plan = PlanOf(Case("V2-Lite"), machine);
  std::swap(machine.devices[0], machine.devices[1]);
  std::swap(machine.devices[0].index, machine.devices[1].index);
  const Plan other = PlanOf(Case("V2-Lite"), machine);
  ASSERT_EQ(plan.devices.size(), other.devices.size());
  for (std::size_t d = 0; d < plan.devices.size(); ++d) {
    EXPECT_EQ(plan.devices[d].name, other.devices[d].name);
    EXPECT_EQ(plan.DeviceBytes(static_cast<int>(d)), other.DeviceBytes(static_cast<int>(d)));
  }
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    EXPECT_EQ(plan.layers[i].attention, other.layers[i].attention);
    EXPECT_EQ(plan.layers[i].experts, other.layers[i].experts);
  }
  EXPECT_EQ(plan.prediction.decode_tokens_per_s, other.prediction.decode_tokens_per_s);
}

TEST(PlanProperties, Deterministic) {
  for (const Invented& m : Machines()) {
    const auto json = [&] { return ToJson(PlanOf(Case("V2-Lite"), m.machine)); };
    if (!m.models.empty()) {
      EXPECT_EQ(json(), json()) << m.name;
    }
  }
}

// More memory anywhere is never predicted to be slower.
TEST(PlanProperties, MonotoneInMemory) {
  for (const auto& [name, sizes] : std::vector<std::pair<std::string, std::vector<std::uint64_t>>>{
           {"V2-Lite", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48}},
           {"V3", {4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 80, 141}}}) {
    double last = 1e300;
    std::uint64_t last_gib = 0;
    for (const std::uint64_t gib : sizes) {
      const Machine machine = test::GpuMachine(gib);
      const double seconds = Seconds(Case(name), machine, {}, PlanOf(Case(name), machine));
      EXPECT_LE(seconds, last * (1 + 1e-9)) << name << ": " << gib << " GiB after " << last_gib;
      last = seconds;
      last_gib = gib;
    }
  }
  double last = 1e300;
  for (const std::uint64_t gib : {26, 28, 30, 32, 48, 64, 128}) {
    Machine machine = test::Workstation();
    machine.memory_limit_bytes = machine.nodes[0].memory_bytes = gib * kGiB;
    machine.nodes[0].free_bytes = gib * kGiB;
    const double seconds = Seconds(Case("V2-Lite"), machine, {}, PlanOf(Case("V2-Lite"), machine));
    EXPECT_LE(seconds, last * (1 + 1e-9)) << gib << " GiB of host memory";
    last = seconds;
  }
}

std::vector<Profile> SimplePolicies() {
  std::vector<Profile> policies;
  for (int subset = 0; subset < 16; ++subset) {
    for (const double share : {0.0, 0.05, 0.25, 0.5, 1.0, -1.0}) {
      Profile p;
      p.attention = (subset & 1) != 0 ? Side::kDevice : Side::kHost;
      p.dense = (subset & 2) != 0 ? Side::kDevice : Side::kHost;
      p.shared_experts = (subset & 4) != 0 ? Side::kDevice : Side::kHost;
      p.head = (subset & 8) != 0 ? Side::kDevice : Side::kHost;
      if (share >= 0) {
        p.experts = Profile::Experts::kShare;
        p.experts_share = share;
      }
      policies.push_back(p);
    }
  }
  return policies;
}

// The planner's choice against every policy that a user could write down in a line.
TEST(PlanProperties, NoWorseThanSimplePolicies) {
  std::vector<std::pair<std::string, Machine>> machines{{"8 GiB", test::GpuMachine(8)},
                                                        {"24 GiB", test::GpuMachine(24)},
                                                        {"workstation", test::Workstation()},
                                                        {"PoCL", test::PoclMachine(6)}};
  for (auto& [name, machine] : machines) {
    if (name == "PoCL") machine.memory_limit_bytes = machine.nodes[0].free_bytes = 80 * kGiB;
    const ModelCase& model = Case("V2-Lite");
    const Profile free;
    const double best = Seconds(model, machine, free, PlanOf(model, machine, free));
    int compared = 0;
    double nearest = 1e300;
    for (const Profile& policy : SimplePolicies()) {
      const PlanTask task(model.config, model.tensors, machine, {});
      const Outcome outcome = FindPlan(task, policy, Effort::kPolicies);
      if (!outcome.fits) continue;
      ++compared;
      nearest = std::min(nearest, outcome.seconds);
      EXPECT_LE(best, outcome.seconds * (1 + 1e-6)) << name << ": " << ToText(outcome.plan);
    }
    std::printf("%s: %.3f s, the best of %d simple policies %.3f s\n", name.c_str(), best, compared,
                nearest);
    EXPECT_GT(compared, 10);
  }
}

RoutingStatistics SkewedStatistics(const Config& config) {
  RoutingStatistics statistics;
  statistics.layers = config.num_hidden_layers;
  statistics.experts = config.n_routed_experts;
  statistics.experts_per_token = config.num_experts_per_tok;
  RoutingDomain domain;
  domain.name = "invented";
  for (RoutingCounts& phase : domain.phases) {
    phase.tokens = 100000;
    phase.counts.resize(static_cast<std::size_t>(config.num_hidden_layers));
    for (std::size_t layer = 0; layer < phase.counts.size(); ++layer) {
      if (!config.IsMoeLayer(static_cast<std::int64_t>(layer))) continue;
      // Another expert is the hottest in every layer; counts fall by 6 % from one to the next.
      auto& counts = phase.counts[layer];
      counts.resize(static_cast<std::size_t>(config.n_routed_experts));
      double heat = 100000;
      for (std::size_t k = 0; k < counts.size(); ++k) {
        counts[(k * 7 + layer * 5) % counts.size()] = static_cast<std::uint64_t>(heat);
        heat *= 0.94;
      }
    }
  }
  statistics.domains.push_back(domain);
  return statistics;
}

TEST(PlanProperties, HotterExpertsFirst) {
  const ModelCase& model = Case("V2-Lite");
  const Machine machine = test::GpuMachine(8);
  const RoutingStatistics statistics = SkewedStatistics(model.config);
  const Plan hot = PlanOf(model, machine, {}, &statistics);
  double coldest_there = 1, hottest_here = 0;
  for (std::size_t i = 0; i < hot.layers.size(); ++i) {
    if (!hot.layers[i].moe) continue;
    const auto shares = statistics.Shares(Phase::kDecode, static_cast<std::int64_t>(i));
    for (std::size_t e = 0; e < shares.size(); ++e) {
      const bool there = hot.layers[i].experts[e].on_device();
      (there ? coldest_there : hottest_here) =
          there ? std::min(coldest_there, shares[e]) : std::max(hottest_here, shares[e]);
    }
  }
  EXPECT_GT(test::BytesOfItem(hot, "routed experts", Place::Device(0)), 0u);
  EXPECT_GE(coldest_there, hottest_here);
  Profile by_id;
  by_id.expert_policy = Profile::ExpertPolicy::kOrder;
  const Plan cold = PlanOf(model, machine, by_id, &statistics);
  std::printf("on the device: %.1f %% of choices by statistics, %.1f %% by id\n",
              100 * hot.prediction.device_hit_rate, 100 * cold.prediction.device_hit_rate);
  EXPECT_GT(hot.prediction.device_hit_rate, cold.prediction.device_hit_rate);
  EXPECT_GE(hot.prediction.decode_tokens_per_s, cold.prediction.decode_tokens_per_s);
  EXPECT_TRUE(hot.prediction.statistics);
}

// All but routed experts is on the first device, each holds what it can, and two are never planned
// to be slower than the first alone.
TEST(PlanProperties, FurtherDevicesHoldExpertsAlone) {
  for (const auto& [name, least] : {std::pair{"V2-Lite", 1u}, std::pair{"V3", 2u}}) {
    const ModelCase& model = Case(name);
    Machine machine = test::Workstation();
    machine.memory_limit_bytes = machine.nodes[0].memory_bytes = 1024 * kGiB;
    machine.nodes[0].free_bytes = 1024 * kGiB;
    Profile profile;
    profile.device = "all";
    const Plan plan = PlanOf(model, machine, profile);
    ASSERT_GE(plan.devices.size(), least) << name;
    ExpectFits(plan, machine);
    std::int64_t further = 0;
    for (const LayerPlan& layer : plan.layers) {
      for (const Place role : {layer.attention, layer.dense, layer.router, layer.shared}) {
        EXPECT_TRUE(!role.on_device() || role.index == 0) << name;
      }
      further += std::ranges::count(layer.experts, Place::Device(1));
    }
    EXPECT_TRUE(!plan.head.on_device() || plan.head.index == 0) << name;
    EXPECT_EQ(further > 0, plan.devices.size() > 1) << name;
    profile.device = std::to_string(plan.devices[0].index);
    const double alone = Seconds(model, machine, profile, PlanOf(model, machine, profile));
    profile.device = "all";
    const double both = Seconds(model, machine, profile, plan);
    std::printf("%s: %.3f s on the first device, %.3f s on all\n", name, alone, both);
    EXPECT_LE(both, alone * 1.01) << name;
  }
}

// A GPU that is asked for in vain by the runtime at hand is planned for where it is allowed.
TEST(PlanProperties, MoreDevicesThanTheRuntimeRuns) {
  const ModelCase& model = Case("V2-Lite");
  Profile profile;
  profile.device = "all";
  const Plan plan = PlanOf(model, test::Workstation(), profile);
  EXPECT_EQ(plan.devices.size(), 2u);
  const auto run = [&] {
    MakePlan(model.config, model.tensors, test::Workstation(), profile, Precision::kFast);
  };
  EXPECT_THAT(test::Refusal(run, ExitCode::kUnavailable),
              AllOf(HasSubstr("2 devices"), HasSubstr("this version runs 1")));
  profile.device = "small, large";
  EXPECT_EQ(PlanOf(model, test::Workstation(), profile).devices.size(), 2u);
  profile.device = "auto";  // the one that is faster with it
  const Plan best =
      MakePlan(model.config, model.tensors, test::Workstation(), profile, Precision::kFast);
  ASSERT_EQ(best.devices.size(), 1u);
  EXPECT_THAT(best.devices[0].name, HasSubstr("large"));
}

TEST(PlanProperties, NodesShareByBandwidthAndMemory) {
  const ModelCase& model = Case("V2-Lite");
  Profile profile;
  profile.device = "none";
  Machine machine = test::CpuMachine(2, 8, 64 * kGiB);
  EXPECT_EQ(PlanOf(model, machine, profile).nodes[0].share, 0) << "equal";
  profile.node_threads = {{0, 6}, {1, 2}};
  Plan plan = PlanOf(model, machine, profile);
  EXPECT_EQ(plan.nodes[0].cores.size(), 6u);
  EXPECT_EQ(plan.nodes[1].cores.size(), 2u);
  EXPECT_GT(plan.nodes[0].share, 0.5);
  ExpectFits(plan, machine);
  // Node 0 is nearly full: node 1 takes what it cannot hold.
  machine.nodes[0].free_bytes = 4 * kGiB;
  machine.memory_limit_bytes = 36 * kGiB;
  plan = PlanOf(model, machine, profile);
  EXPECT_LT(plan.nodes[0].share, 0.2);
  ExpectFits(plan, machine);
  profile.node_budgets[1].bytes = 16 * kGiB;
  EXPECT_THAT(test::Refusal([&] { PlanOf(model, machine, profile); }, ExitCode::kUnavailable),
              HasSubstr("NUMA nodes"));
}

TEST(PlanProperties, QuotaAndBudgets) {
  const ModelCase& model = Case("V2-Lite");
  Machine machine = test::GpuMachine(24);
  machine.cpu_quota = 6.5;
  Profile profile;
  profile.device_budgets["24G"].reserve = 10 * kGiB;
  const Plan plan = PlanOf(model, machine, profile);
  std::size_t threads = 0;
  for (const PlanNode& node : plan.nodes) threads += node.cores.size();
  EXPECT_EQ(threads, 6u);
  ASSERT_EQ(plan.devices.size(), 1u);
  EXPECT_EQ(plan.devices[0].budget_bytes, 14 * kGiB);
  profile.kv_place = Side::kHost;
  for (const LayerPlan& layer : PlanOf(model, machine, profile).layers) {
    EXPECT_FALSE(layer.attention.on_device());
  }
  profile.attention = Side::kDevice;
  EXPECT_THAT(test::Refusal([&] { PlanOf(model, machine, profile); }, ExitCode::kConfig),
              HasSubstr("kv.place"));
}

// Every offer fits when its settings are applied, is another one, and the smallest come first.
TEST(PlanProperties, OffersFit) {
  const ModelCase& model = Case("V2-Lite");
  std::vector<std::pair<Machine, Profile>> cases;
  Profile profile;
  profile.device = "none";
  profile.context = 1 << 20;
  profile.kv_type = DType::kF32;
  profile.max_sequences = 64;
  cases.push_back({test::CpuMachine(1, 8, 48 * kGiB), profile});
  profile = {};
  profile.attention = profile.dense = profile.shared_experts = profile.head = Side::kDevice;
  profile.experts = Profile::Experts::kShare;
  profile.experts_share = 0.5;
  profile.context = 65536;
  cases.push_back({test::GpuMachine(8), profile});
  profile.experts = Profile::Experts::kBytes;
  profile.experts_bytes = 6 * kGiB;
  profile.least_context = 65536;
  cases.push_back({test::GpuMachine(8), profile});
  for (const auto& [machine, wanted] : cases) {
    const std::string text =
        test::Refusal([&] { PlanOf(model, machine, wanted); }, ExitCode::kUnavailable);
    std::printf("%s\n", text.c_str());
    const PlanTask task(model.config, model.tensors, machine, {});
    const Offers offers = NearestPlans(task, wanted);
    EXPECT_EQ(offers.nearest.size(), 3u);
    std::size_t changes = 1;
    std::vector<std::string> seen;
    for (const Offer& offer : offers.nearest) {
      const Plan plan = PlanOf(model, machine, offer.profile);
      ExpectFits(plan, machine);
      EXPECT_GE(offer.profile.context, wanted.least_context);
      EXPECT_GE(offer.changes.size(), changes);
      changes = offer.changes.size();
      std::string key;
      for (const Change& change : offer.changes) key += change.setting + change.to + ";";
      EXPECT_EQ(std::ranges::count(seen, key), 0) << key;
      seen.push_back(key);
      EXPECT_THAT(text, HasSubstr(offer.changes[0].setting + " " + offer.changes[0].from));
    }
  }
}

}  // namespace
}  // namespace tandem
