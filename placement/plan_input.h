#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "placement/cost.h"
#include "placement/machine.h"
#include "placement/model_sizes.h"
#include "placement/plan.h"
#include "placement/planner.h"
#include "placement/profile.h"

namespace tandem {

// The roles that every layer has at most one unit of, in the order in which a device is filled.
struct LayerRole {
  const char* key;   // in the profile
  const char* what;  // in the plan's table
  Side Profile::*side;
  Place LayerPlan::*place;
  Unit LayerUnits::*unit;
};
inline constexpr std::size_t kAttention = 0;
inline constexpr std::size_t kDense = 1;
inline constexpr std::size_t kRouter = 2;
inline constexpr std::size_t kShared = 3;
inline constexpr std::size_t kLayerRoleCount = 4;
inline constexpr std::array<LayerRole, kLayerRoleCount> kLayerRoles{
    {{"attention", "attention", &Profile::attention, &LayerPlan::attention, &LayerUnits::attention},
     {"dense", "dense MLP", &Profile::dense, &LayerPlan::dense, &LayerUnits::dense},
     {"router", "router", &Profile::router, &LayerPlan::router, &LayerUnits::router},
     {"shared_experts", "shared experts", &Profile::shared_experts, &LayerPlan::shared,
      &LayerUnits::shared}}};

// What the profile wants of one unit.
struct Want {
  Side side = Side::kAuto;
  std::uint64_t devices = 0;  // bit i: the machine's i-th device will do; 0: any will
  int line = 0;               // of the rule, 0: of a role's side
};

struct Wants {
  Want head;
  std::vector<std::array<Want, kLayerRoleCount>> roles;  // [layers]
  std::vector<std::vector<Want>> experts;                // [layers][experts]
  bool demands_device = false;
  bool host_only = false;  // some weights are in formats that no device takes
};

struct ExpertRef {
  std::int32_t layer = 0;
  std::int32_t expert = 0;
};

// What all plans for one model on one machine have in common.
struct PlanTask {
  PlanTask(const Config& config, const TensorList& tensors, const Machine& machine,
           const PlanOptions& options);
  PlanTask(const PlanTask&) = delete;
  PlanTask& operator=(const PlanTask&) = delete;

  const Config& config;
  const TensorList& tensors;
  const Machine machine;  // with rates for every node and device
  const PlanOptions options;
  ModelUnits units;
  CostModel cost;
};

// What all plans for one profile have in common.
struct PlanInput {
  PlanInput(const PlanTask& plan_task, const Profile& plan_profile);

  const PlanTask& task;
  const Profile profile;
  Wants wants;
  Workload workload;
  DType kv_type = DType::kF16;
  std::int64_t kv_blocks = 0;
  std::uint64_t kv_layer_bytes = 0;
  // The largest part of it where a device's largest buffer is `max_bytes`.
  std::uint64_t KvBuffer(std::uint64_t max_bytes) const;
  std::uint64_t host_budget = 0;
  std::vector<std::int64_t> chunks;  // ascending: max_rows to choose from
  StreamPlan stream;                 // sizes of the experts; 0 bytes: they cannot stream
  CachePlan cache;                   // the same, and as slots all experts; 0 bytes: they cannot
  // Experts that the planner may place, those that gain most per byte first; and all of each layer
  // in that order, for the profile's shares and bytes.
  std::vector<ExpertRef> expert_order;
  std::vector<std::vector<std::int32_t>> layer_order;
};

// Throws ConfigError for rules that contradict or match nothing, or name a device in vain.
Wants ResolveWants(const PlanTask& task, const Profile& profile);

// Whether `text` is matched by a pattern with * (any letters) and ? (one).
bool GlobMatches(std::string_view pattern, std::string_view text);

}  // namespace tandem
