#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

// One NUMA node and the cores of it that this process may use.
struct Node {
  int os_index = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t free_bytes = 0;
  std::vector<int> cores;  // one PU (OS index) per core: SMT siblings are left out
};

// One OpenCL device, by its index in the list of all devices.
struct Device {
  int index = 0;
  std::string name;
  std::string platform;
  std::string driver_version;
  bool shares_cores = false;  // a CPU device (PoCL): its threads and ours compete
  std::uint64_t memory_bytes = 0;
  std::uint64_t max_alloc_bytes = 0;
  std::uint32_t compute_units = 0;
};

// What there is to place on. Plain data, so that a plan can be made for an invented machine.
struct Machine {
  std::string cpu_name;
  std::vector<Node> nodes;  // at least one
  std::vector<Device> devices;
  std::string device_problem;            // why there is no device, for messages
  std::uint64_t memory_limit_bytes = 0;  // what this process may use: cgroup, MemAvailable
};

enum class ProbeDevices : bool { kNo, kYes };

// Reads this machine: hwloc for nodes and cores (cpuset respected), cgroup v1/v2 and available
// memory, and the OpenCL devices unless told not to look.
Machine ReadMachine(ProbeDevices probe);

}  // namespace tandem
