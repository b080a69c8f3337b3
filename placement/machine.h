#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "placement/rates.h"

namespace tandem {

// One NUMA node and the cores of it that this process may use.
struct Node {
  int os_index = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t free_bytes = 0;
  std::vector<int> cores;  // one PU (OS index) per core: SMT siblings are left out
  int package = 0;
  int threads_per_core = 1;
  std::uint64_t free_huge_page_bytes = 0;  // reserved huge pages that nobody uses
};

struct Cache {
  int level = 0;
  std::uint64_t bytes = 0;
  int count = 0;  // of such caches on the machine
  int cores = 0;  // that share one
};

// One OpenCL device, by its index in the list of all devices.
struct Device {
  int index = 0;
  std::string name;
  std::string platform;
  std::string driver_version;
  std::string pci_address;    // "0000:18:00.0"; empty: unknown, or no PCI device
  int numa_node = -1;         // OS index of the nearest node; -1: unknown
  bool shares_cores = false;  // a CPU device (PoCL): its threads and ours compete
  std::uint64_t memory_bytes = 0;
  std::uint64_t max_alloc_bytes = 0;
  std::uint32_t compute_units = 0;
  std::string kernel_shapes;  // other than the program's table has, which rates depend on
};

// What there is to place on. Plain data, so that a plan can be made for an invented machine.
struct Machine {
  std::string cpu_name;
  std::vector<Node> nodes;  // at least one
  std::vector<Device> devices;
  std::string device_problem;             // why there is no device, for messages
  std::uint64_t memory_bytes = 0;         // of the whole machine; 0: that of the nodes
  std::uint64_t memory_limit_bytes = 0;   // what this process may use: cgroup, MemAvailable
  std::uint64_t memlock_limit_bytes = 0;  // RLIMIT_MEMLOCK; 0: unknown, UINT64_MAX: none
  double cpu_quota = 0;  // cores' worth of time that the cgroups grant; 0: no quota
  std::vector<Cache> caches;
  std::vector<std::vector<int>> distances;  // [node][node] as the firmware has them; may be empty
  Rates rates;
};

// The machine's memory. Some virtual machines count on their nodes only what was used since they
// started, and process limits may leave nodes out.
std::uint64_t MemoryBytes(const Machine& machine);

// A hash of what the rates depend on: CPU, quota, cores, memory, caches, devices and drivers, but
// not what is free now. 16 hexadecimal digits. A machine whose devices were not looked for has
// another fingerprint than the same one with them; the parts below do not.
std::string Fingerprint(const Machine& machine);
// The same of the CPU side alone, and of one device on it with the shapes of its kernels: rates are
// stored by these.
std::string HostFingerprint(const Machine& machine);
std::string DeviceFingerprint(const Machine& machine, const Device& device);

enum class ProbeDevices : bool { kNo, kYes };

// Reads this machine: hwloc for nodes and cores (cpuset respected), cgroup v1/v2 and available
// memory, and the OpenCL devices unless told not to look. Its rates are those that the last
// measurement stored (rates_store.h); what was never measured with this CPU, device and driver is
// assumed.
Machine ReadMachine(ProbeDevices probe);

// Rates for a machine that nobody measured, from its cores, nodes and devices: typical figures,
// rather low than high.
Rates AssumeRates(const Machine& machine);
DeviceRates AssumeDeviceRates(const Machine& machine, const Device& device);

}  // namespace tandem
