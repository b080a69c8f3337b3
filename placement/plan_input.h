#pragma once

#include <array>
#include <cstdint>

#include "model/config.h"
#include "placement/machine.h"
#include "placement/model_sizes.h"
#include "placement/plan.h"
#include "placement/profile.h"
#include "placement/resources.h"

namespace tandem {

// The roles that every layer has at most one unit of, in the order in which the device is filled.
struct LayerRole {
  const char* key;   // in the profile
  const char* what;  // in the plan's table
  Side Profile::*side;
  Place LayerPlan::*place;
  Unit LayerUnits::*unit;
};
inline constexpr std::array<LayerRole, 4> kLayerRoles{
    {{"attention", "attention", &Profile::attention, &LayerPlan::attention, &LayerUnits::attention},
     {"dense", "dense MLP", &Profile::dense, &LayerPlan::dense, &LayerUnits::dense},
     {"router", "router", &Profile::router, &LayerPlan::router, &LayerUnits::router},
     {"shared_experts", "shared experts", &Profile::shared_experts, &LayerPlan::shared,
      &LayerUnits::shared}}};
inline constexpr const LayerRole& kAttention = kLayerRoles[0];
inline constexpr const LayerRole& kRouter = kLayerRoles[2];

// What a plan is made from, measured once.
struct PlanInput {
  const Config& config;
  const Profile& profile;
  const Machine& machine;
  const Device* device;  // null: none
  ModelUnits units;
  Threads threads;
  StepShape step;
  std::uint64_t kv_layer_bytes = 0;
};

// Sets the places of `plan`, which is all on the host and has one device, so that the device is
// filled: first with what the profile demands, whatever its size (CheckFits refuses what does not
// fit, with all the numbers), then with what it leaves to the planner, as far as it goes. Throws
// OpenClError for a demand that no buffer of the device can hold.
void FillDevice(const PlanInput& input, Plan& plan);

}  // namespace tandem
