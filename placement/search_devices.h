#pragma once

#include <string>

#include "placement/plan_input.h"
#include "placement/search.h"

namespace tandem {

// The best plan for a profile, over all sets of devices that it allows.
struct Outcome {
  Plan plan;  // complete if it fits; else with table and sums, for messages
  bool fits = false;
  double seconds = 0;              // predicted, of the workload
  std::uint64_t missing = 0;       // bytes, over all places
  std::uint64_t node_missing = 0;  // of these on NUMA nodes alone
  std::string problem;             // of a device that cannot hold a demand at all
};

// Throws as MakePlan, except for what does not fit.
Outcome FindPlan(const PlanTask& task, const Profile& profile, Effort effort);

}  // namespace tandem
