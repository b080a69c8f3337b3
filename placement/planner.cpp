#include "placement/planner.h"

#include <string>

#include "memory/error.h"
#include "placement/fit.h"
#include "placement/offers.h"
#include "placement/plan_input.h"
#include "placement/profile_check.h"
#include "placement/search_devices.h"

namespace tandem {

Plan MakePlan(const Config& config, const TensorList& tensors, const Machine& machine,
              const Profile& profile, const PlanOptions& options) {
  CheckProfile(profile, config);
  const PlanTask task(config, tensors, machine, options);
  Outcome outcome = FindPlan(task, profile, Effort::kFull);
  if (outcome.fits) return std::move(outcome.plan);
  std::string text = outcome.problem.empty() ? DescribeShortfall(outcome.plan, outcome.node_missing)
                                             : outcome.problem + "\n";
  throw OpenClError(text + DescribeOffers(NearestPlans(task, profile)));
}

}  // namespace tandem
