// ctest: opencl
#include <gtest/gtest.h>

#include "memory/cl_device.h"
#include "placement/machine.h"

namespace tandem {
namespace {

// The machine's devices are those of the probe, in its order, and every field is carried over.
TEST(Machine, DevicesAreThoseOfTheProbe) {
  const ClProbe probe = ProbeClDevices();
  if (probe.devices.empty()) GTEST_SKIP() << "no OpenCL device: " << probe.problem;
  const Machine machine = ReadMachine(ProbeDevices::kYes);
  ASSERT_EQ(machine.devices.size(), probe.devices.size());
  for (std::size_t i = 0; i < probe.devices.size(); ++i) {
    const ClDeviceInfo& info = probe.devices[i];
    const Device& device = machine.devices[i];
    EXPECT_EQ(device.index, info.index);
    EXPECT_EQ(device.name, info.name);
    EXPECT_EQ(device.platform, info.platform);
    EXPECT_EQ(device.driver_version, info.driver_version);
    EXPECT_EQ(device.shares_cores, info.is_cpu);
    EXPECT_EQ(device.memory_bytes, info.global_mem_bytes);
    EXPECT_EQ(device.max_alloc_bytes, info.max_alloc_bytes);
    EXPECT_EQ(device.compute_units, info.compute_units);
    EXPECT_GT(device.memory_bytes, 0u);
    EXPECT_GT(device.max_alloc_bytes, 0u);
  }
}

}  // namespace
}  // namespace tandem
