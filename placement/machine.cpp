#include "placement/machine.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "memory/cl_device.h"
#include "memory/tuned_shapes.h"
#include "placement/limits.h"
#include "placement/rates_store.h"
#include "placement/topology.h"

namespace tandem {
namespace {

// The node of a PCI device; where there is only one, no firmware needs to tell.
int NearestNode(const ClDeviceInfo& info, const std::vector<Node>& nodes) {
  if (info.is_cpu) return -1;
  return nodes.size() == 1 ? nodes.front().os_index : PciNumaNode(info.pci_address);
}

Device FromCl(const ClDeviceInfo& info, const std::vector<Node>& nodes) {
  Device device;
  device.index = info.index;
  device.name = info.name;
  device.platform = info.platform;
  device.driver_version = info.driver_version;
  device.pci_address = info.pci_address;
  device.numa_node = NearestNode(info, nodes);
  device.shares_cores = info.is_cpu;
  device.memory_bytes = info.global_mem_bytes;
  device.max_alloc_bytes = info.max_alloc_bytes;
  device.compute_units = info.compute_units;
  const TunedShapes shapes = LoadShapes(ShapesFolder(), info);
  device.kernel_shapes = fmt::format("{}", fmt::join(shapes.changes, ","));
  return device;
}

Machine ReadHost() {
  Machine machine;
  Topology topology = ReadTopology();
  machine.cpu_name = std::move(topology.cpu_name);
  machine.nodes = std::move(topology.nodes);
  machine.caches = std::move(topology.caches);
  machine.distances = std::move(topology.distances);
  machine.memory_bytes = ReadMemoryTotal();
  machine.memory_limit_bytes = ReadMemoryLimit();
  machine.memlock_limit_bytes = ReadMemlockLimit();
  machine.cpu_quota = ReadCpuQuota();
  return machine;
}

void ReadDevices(Machine& machine) {
  ClProbe found = ProbeClDevices();
  for (const ClDeviceInfo& info : found.devices) {
    machine.devices.push_back(FromCl(info, machine.nodes));
  }
  machine.device_problem = std::move(found.problem);
}

}  // namespace

std::uint64_t MemoryBytes(const Machine& machine) {
  std::uint64_t of_nodes = 0;
  for (const Node& node : machine.nodes) of_nodes += node.memory_bytes;
  return std::max(machine.memory_bytes, of_nodes);
}

Machine ReadMachine(ProbeDevices probe) {
  Machine machine = ReadHost();
  if (probe == ProbeDevices::kYes) {
    ReadDevices(machine);
  } else {
    machine.device_problem = "devices were not looked for";
  }
  std::vector<std::string> why;  // `tandem topology` and `tandem doctor` tell it
  std::optional<Rates> stored = LoadRates(RatesFolder(), machine, why);
  machine.rates = stored ? *std::move(stored) : AssumeRates(machine);
  return machine;
}

}  // namespace tandem
