#pragma once

#include <string>

#include "placement/plan.h"
#include "placement/profile.h"

namespace tandem {

// The profile that demands what this plan has: every choice that the planner made is fixed, so that
// planning with it gives the same placement. Workload, budgets and types are the profile's own.
Profile PinProfile(const Profile& profile, const Plan& plan);

// Equal for plans that place everything alike, with the same threads and chunk: 16 hexadecimal
// digits.
std::string PlacementKey(const Plan& plan);

}  // namespace tandem
