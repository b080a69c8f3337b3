#pragma once

#include "placement/machine.h"
#include "runtime/measure_meter.h"
#include "runtime/measure_weights.h"

namespace tandem {

// How many stages MeasureHost reports.
int HostStages(const Machine& machine);

// The CPU side of placement/rates.h.
HostRates MeasureHost(const Machine& machine, Meter& meter);

// Thread counts of the teams: 1, half and all of the cores.
std::vector<int> TeamSizes(const Machine& machine);

// One team, as MeasureHost measures it.
TeamRates MeasureTeam(const Machine& machine, int threads, MeasuredWeights& weights, Meter& meter);

}  // namespace tandem
