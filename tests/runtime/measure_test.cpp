// ctest: unit
// A quick measurement of the CPU side gives every table that placement/rates.h names.
#include "runtime/measure.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "memory/error.h"
#include "runtime/measure_host.h"
#include "runtime/measure_meter.h"

namespace tandem::test {
namespace {

constexpr DType kFormats[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};

// This machine with at most two cores, so that the test is quick everywhere.
Machine SmallMachine() {
  Machine machine = ReadMachine(ProbeDevices::kNo);
  machine.nodes.resize(1);
  machine.nodes[0].cores.resize(std::min<std::size_t>(2, machine.nodes[0].cores.size()));
  return machine;
}

// Counts what is said, and says "stop" when the clock of Updates reaches `stop_at`.
class Counter final : public ProgressSink {
 public:
  explicit Counter(int stop_at = -1) : stop_at_(stop_at) {}
  void Begin(std::string_view what, std::uint64_t /*total*/) override {
    ++begun;
    last = what;
  }
  void Update(std::uint64_t /*done*/) override { ++updates_; }
  void End() override { ++ended; }
  bool Cancelled() const override { return stop_at_ >= 0 && updates_ >= stop_at_; }

  int begun = 0, ended = 0;
  std::string last;

 private:
  int stop_at_;
  int updates_ = 0;
};

void ExpectTables(const TeamRates& team) {
  for (const DType type : kFormats) {
    SCOPED_TRACE(Name(type));
    ASSERT_TRUE(team.linear.contains(type));
    ASSERT_TRUE(team.experts.contains(type));
    EXPECT_TRUE(IsValid(team.linear.at(type)));
    EXPECT_TRUE(IsValid(team.experts.at(type)));
  }
  EXPECT_TRUE(IsValid(team.attention));
  EXPECT_GT(team.hand_out_s, 0);
  EXPECT_GT(team.value_s, 0);
}

TEST(Measure, TheCpuSideHasEveryTable) {
  const Machine machine = SmallMachine();
  Counter progress;
  const Measurement m = MeasureRates(machine, {.devices = true, .quick = true}, &progress);
  EXPECT_EQ(m.rates.origin, RatesOrigin::kMeasured);
  EXPECT_EQ(m.rates.when.size(), std::string("2026-11-22 06:40 UTC").size()) << m.rates.when;
  EXPECT_TRUE(m.rates.devices.empty());  // the machine has none
  EXPECT_TRUE(m.problems.empty());
  const HostRates& host = m.rates.host;
  ASSERT_EQ(host.nodes.size(), 1U);
  EXPECT_EQ(host.nodes[0].os_index, machine.nodes[0].os_index);
  EXPECT_EQ(host.nodes[0].read.front().threads, 1);
  EXPECT_EQ(host.nodes[0].read.back().threads, std::ssize(machine.nodes[0].cores));
  for (const ReadRate& rate : host.nodes[0].read) EXPECT_GT(rate.bytes_per_s, 1e8);
  ASSERT_EQ(host.between.size(), 1U);
  EXPECT_EQ(host.between[0][0], host.nodes[0].read.back().bytes_per_s);
  ASSERT_FALSE(host.teams.empty());
  for (std::size_t i = 0; i < host.teams.size(); ++i) {
    SCOPED_TRACE(host.teams[i].threads);
    ExpectTables(host.teams[i]);
    if (i == 0) continue;
    EXPECT_GT(host.teams[i].threads, host.teams[i - 1].threads);
  }
  EXPECT_EQ(host.teams.front().threads, 1);
  EXPECT_EQ(host.teams.back().threads, std::ssize(machine.nodes[0].cores));
  EXPECT_EQ(progress.begun, HostStages(machine));
  EXPECT_EQ(progress.ended, progress.begun);
}

TEST(Measure, StopsSoonWhenTheUserWantsTo) {
  const Machine machine = SmallMachine();
  for (const int stop_at : {0, 1, 40, 200}) {
    Counter progress(stop_at);
    try {
      MeasureRates(machine, {.devices = false, .quick = true}, &progress);
      ADD_FAILURE() << "stop at " << stop_at << " was not heard";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "interrupted");
      EXPECT_EQ(static_cast<int>(error.code()), 130);
    }
    EXPECT_EQ(progress.begun, progress.ended) << progress.last;
  }
}

TEST(Measure, TwoNodesHaveRatesBetweenThem) {
  Machine machine = SmallMachine();
  if (machine.nodes[0].cores.size() < 2) GTEST_SKIP() << "one core";
  Node second = machine.nodes[0];
  second.cores = {machine.nodes[0].cores[1]};
  machine.nodes[0].cores.resize(1);
  machine.nodes.push_back(second);
  Meter meter(/*quick=*/true, HostStages(machine), nullptr);
  const HostRates rates = MeasureHost(machine, meter);
  EXPECT_EQ(rates.nodes.size(), 2U);
  ASSERT_EQ(rates.between.size(), 2U);
  for (const auto& row : rates.between) {
    ASSERT_EQ(row.size(), 2U);
    for (const double rate : row) EXPECT_GT(rate, 1e8);
  }
  ExpectTables(rates.teams.back());
}

TEST(Measure, ATableMeasuresEqualSamplesOnceAndScalesThem) {
  const Meter meter(/*quick=*/true, 1, nullptr);
  int calls = 0;
  const auto sample = [](const Sizes& s) {
    const std::int64_t n = std::min<std::int64_t>(s[0], 100);
    return Sample{{n, s[1], s[2]}, static_cast<double>(s[0]) / static_cast<double>(n)};
  };
  const auto seconds = [&](const Sizes& s) {
    ++calls;
    return 1e-6 * static_cast<double>(s[0] * s[1] * s[2]);
  };
  const RateTable table = FillTable({{{10, 100, 1000}, {2}, {3, 5}}}, sample, seconds, meter);
  ASSERT_TRUE(IsValid(table));
  EXPECT_EQ(calls, 4);
  const std::vector<double> expected{60e-6, 100e-6, 600e-6, 1000e-6, 6000e-6, 10000e-6};
  ASSERT_EQ(table.seconds.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_DOUBLE_EQ(table.seconds[i], expected[i]) << "point " << i;
  }
}

TEST(Measure, WeightBytesAreOrdinaryNumbersInEveryFormat) {
  const std::vector<std::byte> bytes = WeightBytes(4096);
  for (std::size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    const auto low = std::to_integer<std::uint8_t>(bytes[i]);
    const auto half =
        static_cast<std::uint16_t>(low | std::to_integer<std::uint16_t>(bytes[i + 1]) << 8);
    for (const float value : {E4M3ToF32(low), F16ToF32(half), Bf16ToF32(half)}) {
      ASSERT_GT(value, 1e-5F) << "at byte " << i;
      ASSERT_LT(value, 2.0F) << "at byte " << i;
    }
  }
}

}  // namespace
}  // namespace tandem::test
