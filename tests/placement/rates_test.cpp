// ctest: unit
#include "placement/rates.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "invented.h"
#include "placement/rates_json.h"
#include "placement/simple_rates.h"

namespace tandem {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

RateTable Line(std::vector<std::int64_t> axis, std::vector<double> seconds) {
  return {{std::move(axis), {1}, {1}}, std::move(seconds)};
}

// a^2 * b * sqrt(c) is a plane in logarithms: interpolation is exact, and so is going on above.
TEST(RateTable, PowersAreExactBetweenAndAbove) {
  const auto seconds = [](double a, double b, double c) { return a * a * b * std::sqrt(c); };
  RateTable table{{{{1, 4, 64}, {2, 8}, {1, 100}}}, {}};
  for (const auto a : table.axes[0]) {
    for (const auto b : table.axes[1]) {
      for (const auto c : table.axes[2]) {
        table.seconds.push_back(seconds(double(a), double(b), double(c)));
      }
    }
  }
  ASSERT_TRUE(IsValid(table));
  double worst = 0;
  for (const double a : {1.0, 2.0, 4.0, 30.0, 64.0, 500.0}) {
    for (const double b : {2.0, 5.5, 8.0, 1000.0}) {
      for (const double c : {1.0, 7.0, 100.0, 1e6}) {
        const double expected = seconds(a, b, c);
        worst = std::max(worst, std::abs(table.Seconds(a, b, c) - expected) / expected);
      }
    }
  }
  std::printf("worst relative error %.1e\n", worst);
  EXPECT_LT(worst, 1e-12);  // a few hundred roundings of logarithms up to 20
}

TEST(RateTable, BelowAnAxisTheFirstValueHolds) {
  const RateTable table = Line({4, 8}, {3, 6});
  EXPECT_DOUBLE_EQ(table.Seconds(1, 1, 1), 3);
  EXPECT_DOUBLE_EQ(table.Seconds(0, 0, 0), 3);
  EXPECT_DOUBLE_EQ(table.Seconds(4, 1, 1), 3);
}

TEST(RateTable, OnePointIsAConstant) {
  const RateTable table = Line({16}, {0.25});
  EXPECT_DOUBLE_EQ(table.Seconds(1, 5, 9), 0.25);
  EXPECT_DOUBLE_EQ(table.Seconds(1e9, 1e9, 1e9), 0.25);
}

TEST(RateTable, TheLastSlopeGoesOn) {
  const RateTable table = Line({1, 2, 4}, {5, 5, 10});
  EXPECT_NEAR(table.Seconds(64, 1, 1), 160, 1e-9);
}

TEST(RateTable, WhatIsNotValid) {
  EXPECT_TRUE(IsValid(Line({1, 2}, {1, 1})));
  EXPECT_FALSE(IsValid(RateTable{}));
  EXPECT_FALSE(IsValid(Line({1, 2}, {1})));
  EXPECT_FALSE(IsValid(Line({1, 2}, {1, 1, 1})));
  EXPECT_FALSE(IsValid(Line({2, 1}, {1, 1})));
  EXPECT_FALSE(IsValid(Line({1, 1}, {1, 1})));
  EXPECT_FALSE(IsValid(Line({0, 1}, {1, 1})));
  for (const double bad : {0.0, -1.0, kNan, std::numeric_limits<double>::infinity()}) {
    EXPECT_FALSE(IsValid(Line({1, 2}, {1, bad}))) << bad;
  }
}

SimpleHost TwoNodes() {
  SimpleHost host;
  host.nodes = {{100e9, 10e9, 50e9}, {100e9, 10e9, 50e9}};
  host.between_bytes_per_s = 40e9;
  host.hand_out_s = 1e-6;
  host.values_per_core_s = 1e9;
  return host;
}

TEST(SimpleRates, DecodeReadsAndPrefillComputes) {
  const Machine machine = test::CpuMachine(2, 16, 512 * test::kGiB);
  const HostRates rates = SimpleHostRates(machine.nodes, TwoNodes());
  ASSERT_EQ(rates.teams.size(), 3U);  // 1, 16 and 32 threads
  const TeamRates& all = rates.teams.back();
  EXPECT_EQ(all.threads, 32);
  // One row of bf16: 8192 * 8192 * 2 bytes at 200 GB/s, and the hand-out.
  EXPECT_NEAR(all.linear.at(DType::kBF16).Seconds(8192, 8192, 1), 134217728 / 200e9 + 1e-6, 1e-9);
  // FP8 reads half of it.
  EXPECT_NEAR(all.linear.at(DType::kF8E4M3).Seconds(8192, 8192, 1), 67108864 / 200e9 + 1e-6, 1e-9);
  // 4096 rows: 2 * 4096 * 8192^2 operations at 32 * 50 GFLOP/s.
  const double operations = 2.0 * 4096 * 8192 * 8192;
  EXPECT_NEAR(all.linear.at(DType::kF32).Seconds(8192, 8192, 4096), operations / 1600e9 + 1e-6,
              1e-6);
  // One thread reads 10 GB/s of 100.
  EXPECT_NEAR(rates.teams.front().linear.at(DType::kF16).Seconds(8192, 8192, 1),
              134217728 / 10e9 + 1e-6, 1e-9);
  EXPECT_DOUBLE_EQ(rates.nodes[0].read.back().bytes_per_s, 100e9);
  EXPECT_DOUBLE_EQ(rates.between[0][1], 40e9);
  EXPECT_DOUBLE_EQ(rates.between[1][1], 100e9);
}

TEST(SimpleRates, AQuotaStopsTheThreadsAboveIt) {
  const Machine machine = test::CpuMachine(2, 16, 512 * test::kGiB);
  SimpleHost host = TwoNodes();
  host.cpu_quota = 4;
  const TeamFigures four = FiguresOf(machine.nodes, host, 4);
  const TeamFigures all = FiguresOf(machine.nodes, host, 32);
  EXPECT_DOUBLE_EQ(all.read_bytes_per_s, four.read_bytes_per_s);
  EXPECT_DOUBLE_EQ(all.flops, 4 * 50e9);
}

// Whatever machine: rates of every part, valid, and in agreement with it.
void ExpectComplete(const Machine& machine) {
  const Rates rates = AssumeRates(machine);
  EXPECT_EQ(rates.origin, RatesOrigin::kAssumed);
  EXPECT_EQ(Mismatch(rates, machine), "");
  for (const TeamRates& team : rates.host.teams) {
    EXPECT_EQ(team.linear.size(), std::size_t{kNumWeightFormats});
    for (const auto& [type, table] : team.linear) EXPECT_TRUE(IsValid(table)) << Name(type);
    for (const auto& [type, table] : team.experts) EXPECT_TRUE(IsValid(table)) << Name(type);
    EXPECT_TRUE(IsValid(team.attention));
    EXPECT_GT(team.value_s, 0);
  }
  for (const DeviceRates& device : rates.devices) {
    EXPECT_TRUE(IsValid(device.attention));
    EXPECT_GT(device.read_bytes_per_s, 0);
    EXPECT_GT(device.round_trip_s, device.launch_s);
  }
}

TEST(AssumedRates, OfEveryInventedMachine) {
  ExpectComplete(test::CpuMachine(1, 1, 4 * test::kGiB));
  ExpectComplete(test::CpuMachine(8, 12, 1024 * test::kGiB));
  ExpectComplete(test::PoclMachine());
  ExpectComplete(test::GpuMachine(24));
  Machine with_far_memory = test::GpuMachine(24);
  with_far_memory.nodes.push_back(test::MakeNode(2, 0, 256 * test::kGiB));
  ExpectComplete(with_far_memory);
  Machine with_quota = test::PoclMachine(16);
  with_quota.cpu_quota = 1.5;
  ExpectComplete(with_quota);
}

TEST(AssumedRates, ACpuDeviceIsSlowerThanTheTeamAndAGpuIsFaster) {
  const Rates pocl = AssumeRates(test::PoclMachine());
  const Rates gpu = AssumeRates(test::GpuMachine(24));
  const auto seconds = [](const auto& side) {
    return side.linear.at(DType::kBF16).Seconds(8192, 8192, 1);
  };
  EXPECT_GT(seconds(pocl.devices[0]), seconds(pocl.host.teams.back()));
  EXPECT_LT(seconds(gpu.devices[0]), seconds(gpu.host.teams.back()));
}

}  // namespace
}  // namespace tandem
