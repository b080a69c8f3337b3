#pragma once

#include <cstdint>
#include <string>

#include "placement/statistics.h"

namespace tandem {

enum class HeatMapOrder : std::uint8_t {
  kHottestFirst,  // of each layer, over both phases, so that a column is the same expert in both
  kById,
};

// Layers x experts as an SVG picture: one panel for prefill and one for decode, the colour of a
// cell telling how much more or less often than the mean its expert was chosen.
std::string HeatMapSvg(const RoutingStatistics& statistics, HeatMapOrder order);

}  // namespace tandem
