#pragma once

#include "placement/fill_plan.h"

namespace tandem {

// Adds up the host's side of a plan whose places and device bytes are there, what is missing over
// all budgets, and the plan's layout.
void SumUp(const PlanInput& input, ScratchSizes& scratch, Filled& filled);

}  // namespace tandem
