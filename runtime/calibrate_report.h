#pragma once

#include <string>

#include "placement/statistics.h"

namespace tandem {

// What statistics say of a model, as tables: how unevenly each layer chooses, and what caches of N
// experts per layer would hit, for each phase.
std::string CalibrationReport(const RoutingStatistics& statistics);
std::string CalibrationJson(const RoutingStatistics& statistics);

// What a hot set planned with some statistics is worth on text that was counted elsewhere.
std::string HotSetText(const RoutingStatistics& planned_with, const RoutingStatistics& counted);
std::string HotSetJson(const RoutingStatistics& planned_with, const RoutingStatistics& counted);

}  // namespace tandem
