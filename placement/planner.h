#pragma once

#include "model/config.h"
#include "model/tensor_list.h"
#include "placement/cost.h"
#include "placement/machine.h"
#include "placement/plan.h"
#include "placement/profile.h"
#include "placement/statistics.h"

namespace tandem {

// What the runtime that will obey the plan can do: a plan asks for nothing else.
struct Abilities {
  int devices = 1;              // OpenCL devices at once
  bool stream_prefill = false;  // Plan::stream_prefill
};

struct PlanOptions {
  Precision precision = Precision::kFast;
  const RoutingStatistics* statistics = nullptr;  // null: uniform routing
  Abilities abilities;
};

// The workload that a profile's plan is made for and predicted with. Only `for: batch` keeps all
// sequences busy; else one request runs at a time. Lengths are cut to the context.
Workload WorkloadOf(const Profile& profile);

// A pure function: the same arguments give the same plan, and nothing is read or allocated.
//
// Every place that the profile does not fix is chosen so that the profile's workload takes the
// least predicted time (cost.h) within the budgets. What the profile demands is a constraint: a
// demand that does not fit is an error, not a fallback.
//
// Throws ConfigError if the profile asks for what the machine or model does not have, and
// OpenClError (exit 69) if a device is absent (listing those found) or no plan under the
// constraints fits: with the shortfall, needed and free bytes per place, and the three nearest
// plans that fit with their predicted speed.
Plan MakePlan(const Config& config, const TensorList& tensors, const Machine& machine,
              const Profile& profile, const PlanOptions& options);
inline Plan MakePlan(const Config& config, const TensorList& tensors, const Machine& machine,
                     const Profile& profile, Precision precision) {
  PlanOptions options;
  options.precision = precision;
  return MakePlan(config, tensors, machine, profile, options);
}

}  // namespace tandem
