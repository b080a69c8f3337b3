#pragma once

#include <cstdlib>

#include "memory/cl_device.h"
#include "memory/error.h"

namespace tandem {

// The OpenCL device to measure: the first, or that of the index in TANDEM_BENCH_DEVICE. Throws
// OpenClError where there is none.
inline ClDeviceInfo ChooseBenchDevice() {
  const ClProbe probe = ProbeClDevices();
  const char* wanted = std::getenv("TANDEM_BENCH_DEVICE");
  const std::size_t index = wanted == nullptr ? 0 : std::strtoul(wanted, nullptr, 10);
  if (index >= probe.devices.size()) {
    Throw<OpenClError>("TANDEM_BENCH_DEVICE={}: {} OpenCL devices found; {}", index,
                       probe.devices.size(), probe.problem);
  }
  return probe.devices[index];
}

}  // namespace tandem
