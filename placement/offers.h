#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "placement/plan.h"
#include "placement/plan_input.h"
#include "placement/profile.h"

namespace tandem {

struct Change {
  std::string setting;  // "workload.context"
  std::string from, to;
  double size = 1;  // doublings, or 1 for a change that has no size
};

// A plan that fits, and how to change the profile to have it.
struct Offer {
  std::vector<Change> changes;
  Profile profile;
  Plan plan;
  double size() const;
};

struct Offers {
  std::vector<Offer> nearest;  // fewest changes first, then the smallest
  std::uint64_t missing = 0;   // if there is none: bytes, with all that could be changed
};

// For a profile whose plan does not fit: the nearest profiles whose plans do, at most three.
// Changes are less context (never below the profile's least), fewer sequences, a smaller KV type or
// chunk, and leaving to the planner one thing that the profile demands.
Offers NearestPlans(const PlanTask& task, const Profile& profile);

std::string DescribeOffers(const Offers& offers);

}  // namespace tandem
