#include "placement/topology.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <type_traits>

#include "memory/error.h"
#include "placement/limits.h"

namespace tandem {
namespace {

struct TopologyDeleter {
  void operator()(hwloc_topology_t t) const noexcept { hwloc_topology_destroy(t); }
};
using TopologyHandle = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, TopologyDeleter>;

TopologyHandle Load() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    Throw<SystemError>("hwloc: cannot start: {}", std::strerror(errno));
  }
  TopologyHandle topology(raw);
  // The binding of the process is the union over its threads, so pinned workers do not shrink it.
  const unsigned long flags =
      HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM | HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING;
  if (hwloc_topology_set_flags(raw, flags) != 0 || hwloc_topology_load(raw) != 0) {
    Throw<SystemError>("hwloc: cannot read the machine's topology: {}", std::strerror(errno));
  }
  return topology;
}

std::string CpuName(hwloc_topology_t topology) {
  const hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
  const char* name = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : nullptr;
  if (!name) name = hwloc_obj_get_info_by_name(hwloc_get_root_obj(topology), "CPUModel");
  return name ? name : "unknown CPU";
}

// The first PU of every object of `type` in the set.
std::vector<int> FirstPus(hwloc_topology_t topology, hwloc_const_cpuset_t set,
                          hwloc_obj_type_t type) {
  std::vector<int> pus;
  hwloc_obj_t core = nullptr;
  while ((core = hwloc_get_next_obj_covering_cpuset_by_type(topology, set, type, core))) {
    // A core may reach out of the set, if the cpuset leaves it one of two PUs only.
    const int pu = hwloc_bitmap_first(core->cpuset);
    if (pu >= 0 && hwloc_bitmap_isset(set, static_cast<unsigned>(pu))) pus.push_back(pu);
  }
  std::sort(pus.begin(), pus.end());
  return pus;
}

Node ReadNode(hwloc_topology_t topology, hwloc_obj_t object) {
  Node node;
  node.os_index = static_cast<int>(object->os_index);
  node.memory_bytes = object->attr->numanode.local_memory;
  node.free_bytes = std::min(NodeFreeBytes(node.os_index), node.memory_bytes);
  node.cores = FirstPus(topology, object->cpuset, HWLOC_OBJ_CORE);
  // Some virtual machines describe PUs without cores.
  if (node.cores.empty()) node.cores = FirstPus(topology, object->cpuset, HWLOC_OBJ_PU);
  return node;
}

// Two nodes can be local to the same cores (HBM beside DRAM): the first one keeps them, so that no
// core is given to two teams.
void RemoveSharedCores(std::vector<Node>& nodes) {
  std::vector<int> taken;
  for (Node& node : nodes) {
    std::erase_if(node.cores, [&](int pu) { return std::ranges::find(taken, pu) != taken.end(); });
    taken.insert(taken.end(), node.cores.begin(), node.cores.end());
  }
}

}  // namespace

Topology ReadTopology() {
  const TopologyHandle topology = Load();
  Topology result{CpuName(topology.get()), {}};
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology.get(), HWLOC_OBJ_NUMANODE, object))) {
    result.nodes.push_back(ReadNode(topology.get(), object));
  }
  std::ranges::sort(result.nodes, {}, &Node::os_index);
  RemoveSharedCores(result.nodes);
  const auto has_cores = [](const Node& node) { return !node.cores.empty(); };
  if (std::ranges::none_of(result.nodes, has_cores)) {
    Throw<SystemError>("hwloc: {} NUMA nodes, none with a core that this process may use",
                       result.nodes.size());
  }
  return result;
}

}  // namespace tandem
