// What deferral of the CPU's sums saves (placement/deferral.h).
#include <algorithm>

#include "placement/cost_step.h"

namespace tandem {

// Where sums are deferred the CPU's part of a layer runs beside all that the device does from one
// sum to the next. A layer then takes as long as the slower side, and at least half of the way
// there and back: a sum is late by one layer, so this way has two layers' time.
void StepEstimate::Defer(const StepCost& before) {
  const double host = cost_.host - before.host;
  const double device = cost_.device - before.device;
  const double way = cost_.hand_over - before.hand_over + cost_.transfer - before.transfer;
  const double together = std::max({host, device, (host + device + way) / 2});
  const double saved = cost_.seconds - before.seconds - together;
  if (saved <= 0) return;
  cost_.seconds -= saved;
  cost_.overlap += saved;
  // The faster side limits nothing any more; of the slower one nothing is hidden.
  const auto first = host >= device ? Limit::kDeviceMemory : Limit::kHostMemory;
  const auto last = host >= device ? Limit::kHandOver : Limit::kHostArithmetic;
  const auto hidden = std::max_element(limits_.begin() + static_cast<int>(first),
                                       limits_.begin() + static_cast<int>(last) + 1);
  *hidden = std::max(0.0, *hidden - saved);
}

}  // namespace tandem
