#include "placement/step_feed_shape.h"

#include <algorithm>

#include "placement/scratch.h"

namespace tandem {

StepFeedShape::StepFeedShape(const Config& c, const Plan& plan)
    : rows(std::min(plan.max_rows, kMostRows)),
      D(c.hidden_size),
      batch_words(BatchWords(c, plan, rows)) {}

bool OnlyEmbeds(const Plan& plan) {
  if (plan.devices.size() != 1 || plan.cache.slots > 0 || plan.stream_prefill) return false;
  const auto there = [](const LayerPlan& layer) {
    if (!layer.attention.on_device()) return false;
    if (!layer.moe) return layer.dense.on_device();
    return layer.router.on_device() && layer.shared.on_device() &&
           std::ranges::all_of(layer.experts, &Place::on_device);
  };
  return plan.head.on_device() && std::ranges::all_of(plan.layers, there);
}

bool StepsAhead(const Plan& plan) {
  if (plan.step_ahead == StepAheadWish::kOff || plan.devices.empty()) return false;
  const bool on_gpu = kAutoStepAhead && !plan.devices[0].shares_cores;
  return (on_gpu || plan.step_ahead == StepAheadWish::kOn) && OnlyEmbeds(plan);
}

}  // namespace tandem
