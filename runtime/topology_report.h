#pragma once

#include <string>
#include <vector>

#include "placement/machine.h"

namespace tandem {

// What `tandem topology` prints of a machine, for a person to read.

// The tree: packages, nodes with their cores and memory, caches, limits, and devices beside the
// node that they hang on.
std::string TopologyText(const Machine& machine);

// Tables of rates, and where they come from; `why` says why stored ones are not used.
std::string RatesText(const Machine& machine, const std::vector<std::string>& why);

// "0-3 8 10-11"
std::string Ranges(const std::vector<int>& ascending);

}  // namespace tandem
