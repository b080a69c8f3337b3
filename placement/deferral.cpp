#include "placement/deferral.h"

#include <algorithm>

namespace tandem {

bool HandsOver(const Config& config, const Plan& plan, int layer) {
  const LayerPlan& p = plan.layers[static_cast<std::size_t>(layer)];
  if (!p.moe || !p.router.on_device()) return false;
  if (config.n_shared_experts > 0 && !p.shared.on_device()) return true;
  return std::ranges::any_of(p.experts, [](Place place) { return place != Place::Device(0); });
}

bool DefersSum(const Config& config, const Plan& plan, int layer) {
  const int next = layer + 1;
  if (!plan.deferral || next >= static_cast<int>(plan.layers.size())) return false;
  return plan.layers[static_cast<std::size_t>(next)].attention.on_device() &&
         HandsOver(config, plan, layer) && HandsOver(config, plan, next);
}

int DeferredLayers(const Config& config, const Plan& plan) {
  int count = 0;
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
    count += DefersSum(config, plan, layer) ? 1 : 0;
  }
  return count;
}

}  // namespace tandem
