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

TopologyHandle Start() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    Throw<SystemError>("hwloc: cannot start: {}", std::strerror(errno));
  }
  return TopologyHandle(raw);
}

TopologyHandle LoadThisMachine() {
  TopologyHandle topology = Start();
  // The binding of the process is the union over its threads, so pinned workers do not shrink it.
  const unsigned long flags =
      HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM | HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING;
  if (hwloc_topology_set_flags(topology.get(), flags) != 0 ||
      hwloc_topology_load(topology.get()) != 0) {
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

int PackageOf(hwloc_topology_t topology, hwloc_obj_t object) {
  const hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_PACKAGE, object);
  return package ? static_cast<int>(package->os_index) : 0;
}

// The most of any core in the set: cores of one package can differ.
int ThreadsPerCore(hwloc_topology_t topology, hwloc_const_cpuset_t set) {
  int most = 1;
  hwloc_obj_t core = nullptr;
  while ((core = hwloc_get_next_obj_covering_cpuset_by_type(topology, set, HWLOC_OBJ_CORE, core))) {
    most = std::max(most, hwloc_bitmap_weight(core->cpuset));
  }
  return most;
}

Node ReadNode(hwloc_topology_t topology, hwloc_obj_t object, const std::string& root) {
  Node node;
  node.os_index = static_cast<int>(object->os_index);
  node.package = PackageOf(topology, object);
  node.memory_bytes = object->attr->numanode.local_memory;
  node.free_bytes = std::min(NodeFreeBytes(node.os_index, root), node.memory_bytes);
  node.free_huge_page_bytes = NodeFreeHugePageBytes(node.os_index, root);
  node.threads_per_core = ThreadsPerCore(topology, object->cpuset);
  node.cores = FirstPus(topology, object->cpuset, HWLOC_OBJ_CORE);
  // Some virtual machines describe PUs without cores.
  if (node.cores.empty()) node.cores = FirstPus(topology, object->cpuset, HWLOC_OBJ_PU);
  return node;
}

// Equal caches are counted together.
void AddCaches(hwloc_topology_t topology, hwloc_obj_type_t type, int level,
               std::vector<Cache>& caches) {
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, type, object))) {
    const int cores =
        hwloc_get_nbobjs_inside_cpuset_by_type(topology, object->cpuset, HWLOC_OBJ_CORE);
    const Cache cache{level, object->attr->cache.size, 1,
                      cores > 0 ? cores : hwloc_bitmap_weight(object->cpuset)};
    const auto same = std::ranges::find_if(caches, [&](const Cache& c) {
      return c.level == level && c.bytes == cache.bytes && c.cores == cache.cores;
    });
    if (same == caches.end()) {
      caches.push_back(cache);
    } else {
      ++same->count;
    }
  }
}

std::vector<Cache> ReadCaches(hwloc_topology_t topology) {
  std::vector<Cache> caches;
  AddCaches(topology, HWLOC_OBJ_L1CACHE, 1, caches);
  AddCaches(topology, HWLOC_OBJ_L2CACHE, 2, caches);
  AddCaches(topology, HWLOC_OBJ_L3CACHE, 3, caches);
  AddCaches(topology, HWLOC_OBJ_L4CACHE, 4, caches);
  return caches;
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

Topology ReadAll(hwloc_topology_t topology, const std::string& root) {
  Topology result{CpuName(topology), {}, ReadCaches(topology), {}};
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, object))) {
    result.nodes.push_back(ReadNode(topology, object, root));
  }
  std::ranges::sort(result.nodes, {}, &Node::os_index);
  RemoveSharedCores(result.nodes);
  const auto has_cores = [](const Node& node) { return !node.cores.empty(); };
  if (std::ranges::none_of(result.nodes, has_cores)) {
    Throw<SystemError>("hwloc: {} NUMA nodes, none with a core that this process may use",
                       result.nodes.size());
  }
  std::vector<int> os_indices;
  for (const Node& node : result.nodes) os_indices.push_back(node.os_index);
  result.distances = ReadDistances(os_indices, root);
  return result;
}

}  // namespace

Topology ReadTopology() { return ReadAll(LoadThisMachine().get(), ""); }

Topology ReadSyntheticTopology(const std::string& description, const std::string& root) {
  const TopologyHandle topology = Start();
  if (hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0 ||
      hwloc_topology_load(topology.get()) != 0) {
    Throw<SystemError>("hwloc: '{}' is no synthetic topology: {}", description,
                       std::strerror(errno));
  }
  return ReadAll(topology.get(), root);
}

}  // namespace tandem
