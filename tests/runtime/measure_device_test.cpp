// ctest: opencl
// A quick measurement of the first OpenCL device, and what becomes of one that is not there.
#include "runtime/measure_device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "memory/cl_device.h"
#include "memory/error.h"
#include "runtime/device_side.h"
#include "runtime/measure.h"
#include "runtime/measure_device_work.h"

namespace tandem::test {
namespace {

Machine WithOneDevice() {
  Machine machine = ReadMachine(ProbeDevices::kYes);
  machine.nodes.resize(1);
  machine.nodes[0].cores.resize(std::min<std::size_t>(2, machine.nodes[0].cores.size()));
  machine.devices.resize(std::min<std::size_t>(1, machine.devices.size()));
  return machine;
}

void ExpectValid(const DeviceRates& rates) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    SCOPED_TRACE(Name(type));
    ASSERT_TRUE(rates.linear.contains(type));
    ASSERT_TRUE(rates.experts.contains(type));
    EXPECT_TRUE(IsValid(rates.linear.at(type)));
    EXPECT_TRUE(IsValid(rates.experts.at(type)));
  }
  EXPECT_TRUE(IsValid(rates.attention));
  for (const double rate : {rates.read_bytes_per_s, rates.gemm_flops,
                            rates.pinned_write_bytes_per_s, rates.pinned_read_bytes_per_s,
                            rates.pageable_write_bytes_per_s, rates.pageable_read_bytes_per_s}) {
    EXPECT_GT(rate, 1e7);
  }
  for (const double seconds :
       {rates.launch_s, rates.transfer_s, rates.round_trip_s, rates.hand_over_s, rates.value_s}) {
    EXPECT_GT(seconds, 0);
    EXPECT_LT(seconds, 1);
  }
}

TEST(MeasureDevice, HasEveryTable) {
  const Machine machine = WithOneDevice();
  if (machine.devices.empty()) GTEST_SKIP() << machine.device_problem;
  Meter meter(/*quick=*/true, kDeviceStages, nullptr);
  const DeviceRates rates = MeasureDevice(machine, machine.devices[0], meter);
  EXPECT_EQ(rates.index, machine.devices[0].index);
  EXPECT_EQ(rates.threads > 0, machine.devices[0].shares_cores);
  ExpectValid(rates);
}

// From 171 rows of one sequence on attention is timed in the form in which steps run it.
TEST(MeasureDevice, AttentionOfManyRowsHasRoomForItsExpandedForm) {
  const Machine machine = WithOneDevice();
  if (machine.devices.empty()) GTEST_SKIP() << machine.device_problem;
  PlanDevice plan;
  plan.index = machine.devices[0].index;
  plan.name = machine.devices[0].name;
  DeviceSide side(plan);
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  DeviceWork work(side, 8 * kMiB, 32 * kMiB);
  for (const std::int64_t rows : {160, 192}) {
    SCOPED_TRACE(rows);
    work.PrepareAttention(2, rows, 512);
    EXPECT_NO_THROW({
      work.Attention();
      side.device.Finish();
    });
  }
}

// What a device of 256 MiB says of itself: the measurement shrinks.
TEST(MeasureDevice, ASmallDeviceIsMeasuredWithLess) {
  Machine machine = WithOneDevice();
  if (machine.devices.empty()) GTEST_SKIP() << machine.device_problem;
  machine.devices[0].memory_bytes = std::uint64_t{256} << 20;
  machine.devices[0].max_alloc_bytes = std::uint64_t{64} << 20;
  Meter meter(/*quick=*/true, kDeviceStages, nullptr);
  ExpectValid(MeasureDevice(machine, machine.devices[0], meter));
}

TEST(MeasureDevice, OneThatFailsIsNamedAndLeftOut) {
  Machine machine = WithOneDevice();
  Device gone;
  gone.index = 99;
  gone.name = "a device that was unplugged";
  machine.devices = {gone};
  const Measurement m = MeasureRates(machine, {.devices = true, .quick = true}, nullptr);
  EXPECT_TRUE(m.rates.devices.empty());
  EXPECT_FALSE(m.rates.host.teams.empty());
  ASSERT_EQ(m.problems.size(), 1U);
  EXPECT_NE(m.problems[0].find("device 99 (a device that was unplugged)"), std::string::npos)
      << m.problems[0];
}

}  // namespace
}  // namespace tandem::test
