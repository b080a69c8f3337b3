#pragma once

#include "placement/fill_plan.h"

namespace tandem {

// What all plans of a recipe have in common, with everything on the host and all devices there.
Plan StartPlan(const PlanInput& input, const Resources& resources, const Recipe& recipe);

}  // namespace tandem
