#include "placement/step_feed_shape.h"

#include <algorithm>

#include "placement/scratch.h"

namespace tandem {

StepFeedShape::StepFeedShape(const Config& c, const Plan& plan)
    : rows(std::min(plan.max_rows, kMostRows)),
      D(c.hidden_size),
      batch_words(BatchWords(c, plan, rows)) {}

bool DeviceLeads(const Plan& plan) {
  if (plan.devices.size() != 1 || plan.cache.slots > 0) return false;
  const auto there = [](const LayerPlan& layer) {
    return layer.attention.on_device() && (layer.moe ? layer.router : layer.dense).on_device();
  };
  return plan.head.on_device() && std::ranges::all_of(plan.layers, there);
}

bool StepsAhead(const Plan& plan) {
  if (plan.step_ahead == StepAheadWish::kOff || plan.devices.empty()) return false;
  const bool on_gpu = kAutoStepAhead && !plan.devices[0].shares_cores;
  return (on_gpu || plan.step_ahead == StepAheadWish::kOn) && DeviceLeads(plan);
}

}  // namespace tandem
