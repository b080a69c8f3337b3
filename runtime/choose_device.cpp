#include "runtime/choose_device.h"

#include <algorithm>
#include <string>

#include "memory/error.h"

namespace tandem {

ClDeviceInfo ChooseClDevice(std::optional<int> wanted) {
  const ClProbe probe = ProbeClDevices();
  const std::string why = probe.problem.empty() ? "" : "; " + probe.problem;
  if (probe.devices.empty()) Throw<OpenClError>("no OpenCL device to measure{}", why);
  if (wanted) {
    for (const ClDeviceInfo& info : probe.devices) {
      if (info.index == *wanted) return info;
    }
    Throw<OpenClError>("--device {}: {} OpenCL device(s) found{}; see `tandem devices`", *wanted,
                       probe.devices.size(), why);
  }
  const auto gpu = std::ranges::find(probe.devices, false, &ClDeviceInfo::is_cpu);
  return gpu == probe.devices.end() ? probe.devices.front() : *gpu;
}

}  // namespace tandem
