#pragma once

#include <string>
#include <vector>

#include "placement/machine.h"

namespace tandem {

// What hwloc and the kernel say of this machine's CPU side.
struct Topology {
  std::string cpu_name;
  std::vector<Node> nodes;
  std::vector<Cache> caches;  // of data, by level; several of one level where cores differ
  std::vector<std::vector<int>> distances;
};

// Packages, nodes, cores, SMT, caches and memory, as far as the process's cpuset and CPU binding
// allow their use. Throws SystemError if hwloc cannot read the machine or leaves no core.
Topology ReadTopology();

// The same of an invented machine, for tests: `description` is hwloc's synthetic form
// ("package:2 [numa(memory=64GB)] l3:1 core:16 pu:2"), `root` is put before /sys.
Topology ReadSyntheticTopology(const std::string& description, const std::string& root);

}  // namespace tandem
