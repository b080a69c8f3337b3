#pragma once

#include <string>
#include <vector>

#include "placement/machine.h"

namespace tandem {

// What hwloc says of this machine's CPU side.
struct Topology {
  std::string cpu_name;
  std::vector<Node> nodes;
};

// Nodes, cores and memory, as far as the process's cpuset and CPU binding allow their use.
// Throws SystemError if hwloc cannot read the machine or leaves no core.
Topology ReadTopology();

}  // namespace tandem
