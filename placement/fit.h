#pragma once

#include <cstdint>
#include <string>

#include "placement/plan.h"

namespace tandem {

// For a plan that does not fit: a table of places with what is needed, there and missing, and for
// every place that is short the largest item that could move. `node_missing` bytes of weights fit
// the host's budget and no NUMA node.
std::string DescribeShortfall(const Plan& plan, std::uint64_t node_missing);

}  // namespace tandem
