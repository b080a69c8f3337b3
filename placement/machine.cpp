#include "placement/machine.h"

#include "memory/cl_device.h"
#include "placement/limits.h"
#include "placement/topology.h"

namespace tandem {
namespace {

Device FromCl(const ClDeviceInfo& info) {
  Device device;
  device.index = info.index;
  device.name = info.name;
  device.platform = info.platform;
  device.driver_version = info.driver_version;
  device.shares_cores = info.is_cpu;
  device.memory_bytes = info.global_mem_bytes;
  device.max_alloc_bytes = info.max_alloc_bytes;
  device.compute_units = info.compute_units;
  return device;
}

}  // namespace

Machine ReadMachine(ProbeDevices probe) {
  Machine machine;
  Topology topology = ReadTopology();
  machine.cpu_name = std::move(topology.cpu_name);
  machine.nodes = std::move(topology.nodes);
  machine.memory_limit_bytes = ReadMemoryLimit();
  if (probe == ProbeDevices::kNo) {
    machine.device_problem = "devices were not looked for";
    return machine;
  }
  ClProbe found = ProbeClDevices();
  for (const ClDeviceInfo& info : found.devices) machine.devices.push_back(FromCl(info));
  machine.device_problem = std::move(found.problem);
  return machine;
}

}  // namespace tandem
