#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "placement/hash.h"
#include "placement/machine.h"

namespace tandem {
namespace {

// Kernels and firmware keep a varying few MiB of the memory for themselves.
std::uint64_t WholeGib(std::uint64_t bytes) { return (bytes + (1u << 29)) >> 30; }

// Fields are set apart by a character that no name has, so that none can run into the next.
template <class... Fields>
void Add(std::string& text, const Fields&... fields) {
  ((text += fmt::format("{}\x1f", fields)), ...);
}

std::string HostText(const Machine& machine) {
  std::string text;
  Add(text, machine.cpu_name, fmt::format("{:.2f}", machine.cpu_quota));
  for (const Node& node : machine.nodes) {
    Add(text, "node", node.os_index, node.package, node.cores.size(), node.threads_per_core);
  }
  // Not that of each node, which can grow with use: what is one machine must stay one.
  Add(text, "memory", WholeGib(MemoryBytes(machine)));
  for (const Cache& cache : machine.caches) {
    Add(text, "cache", cache.level, cache.bytes, cache.count, cache.cores);
  }
  return text;
}

std::string DeviceText(const Device& device) {
  std::string text;
  Add(text, "device", device.name, device.platform, device.driver_version, device.pci_address);
  // A device on the CPU's cores has the host's memory and as many units as it is given threads,
  // both of which change from run to run; the host's own fields stand for them.
  if (!device.shares_cores) Add(text, WholeGib(device.memory_bytes), device.compute_units);
  return text;
}

}  // namespace

std::string HostFingerprint(const Machine& machine) { return HashText(HostText(machine)); }

std::string DeviceFingerprint(const Machine& machine, const Device& device) {
  std::string text = HostText(machine) + DeviceText(device);
  if (!device.kernel_shapes.empty()) Add(text, "shapes", device.kernel_shapes);
  return HashText(text);
}

std::string Fingerprint(const Machine& machine) {
  std::string text = HostText(machine);
  for (const Device& device : machine.devices) text += DeviceText(device);
  return HashText(text);
}

}  // namespace tandem
