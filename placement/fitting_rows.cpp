#include "placement/fitting_rows.h"

#include <algorithm>

#include "placement/scratch.h"
#include "placement/start_plan.h"

namespace tandem {
namespace {

bool MayHaveExperts(const PlanInput& in) {
  using Experts = Profile::Experts;
  const auto demanded = [](const auto& layer) {
    return std::ranges::any_of(layer, [](const Want& w) { return w.side == Side::kDevice; });
  };
  if (std::ranges::any_of(in.wants.experts, demanded)) return true;
  if (in.profile.experts == Experts::kAuto) return !in.expert_order.empty();
  return in.profile.experts == Experts::kShare ? in.profile.experts_share > 0
                                               : in.profile.experts_bytes > 0;
}

// What may go to the first device, each by itself.
std::vector<ScratchUse> Candidates(const PlanInput& in) {
  const auto may = [&](std::size_t role) {
    return std::ranges::any_of(in.wants.roles,
                               [&](const auto& roles) { return roles[role].side != Side::kHost; });
  };
  std::vector<ScratchUse> uses;
  if (may(kAttention)) uses.push_back({.attention = true, .first = true});
  if (may(kDense) || may(kShared)) uses.push_back({.mlp = true, .first = true});
  if (may(kRouter)) uses.push_back({.router = true, .first = true});
  if (MayHaveExperts(in)) uses.push_back({.experts = true, .first = true});
  if (in.wants.head.side != Side::kHost) uses.push_back({.head = true, .first = true});
  return uses;
}

}  // namespace

std::int64_t FittingRows(const PlanInput& in, const Resources& resources, std::int64_t rows) {
  if (resources.devices.empty()) return rows;
  const Config& config = in.task.config;
  const std::uint64_t most = resources.devices[0]->max_alloc_bytes;
  const std::int64_t least = std::min(rows, std::max(in.profile.max_sequences, kLeastFitting));
  Recipe recipe;
  recipe.chunk = least;
  Plan plan = StartPlan(in, resources, recipe);
  std::vector<ScratchUse> uses = Candidates(in);
  const auto too_large = [&](const ScratchUse& use) {
    return LargestBuffer(config, plan, use).bytes() > most;
  };
  std::erase_if(uses, too_large);
  plan.max_rows = rows;
  while (plan.max_rows / 2 >= least && std::ranges::any_of(uses, too_large)) plan.max_rows /= 2;
  return plan.max_rows;
}

}  // namespace tandem
