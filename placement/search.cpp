#include "placement/search.h"

#include <algorithm>
#include <limits>

#include "placement/fitting_rows.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

// Improvements below this are noise of the arithmetic; ties go to what was tried first.
constexpr double kGain = 1e-6;
// A bound on the work, far above what is usually needed.
constexpr int kMostEvaluations = 900;

std::int64_t Clamp(std::int64_t value, std::int64_t most) {
  return std::clamp<std::int64_t>(value, 0, most);
}

std::uint64_t Mix(std::uint64_t hash, std::uint64_t value) {
  return (hash ^ value) * std::uint64_t{0x9e3779b97f4a7c15} ^ (hash >> 29);
}

}  // namespace

bool Candidate::Better(const Candidate& other) const {
  if ((missing == 0) != (other.missing == 0)) return missing == 0;
  if (missing > 0) return missing < other.missing;
  return seconds < other.seconds * (1 - kGain);
}

Search::Search(const PlanInput& input, const Resources& resources)
    : input_(input), resources_(resources), chunks_(input.chunks), scratch_(input.task.config) {
  ChooseChunks();
}

// A chunk that the profile names is the most rows of a step: halves of it are tried, too, where the
// device has no buffers for as many. A note then says so.
void Search::ChooseChunks() {
  constexpr std::int64_t kUsual = 512;
  if (input_.profile.chunk) {
    const std::int64_t fits = FittingRows(input_, resources_, chunks_[0]);
    while (chunks_.front() > fits) chunks_.insert(chunks_.begin(), chunks_.front() / 2);
    first_chunk_ = fits;
    return;
  }
  const auto usual = std::ranges::upper_bound(chunks_, kUsual);
  first_chunk_ = usual == chunks_.begin() ? chunks_[0] : *(usual - 1);
  const std::int64_t fits = FittingRows(input_, resources_, first_chunk_);
  if (std::ranges::find(chunks_, fits) != chunks_.end()) first_chunk_ = fits;
}

Filled Search::Plan(const Recipe& recipe) { return Fill(input_, resources_, recipe, scratch_); }

Candidate Search::Evaluate(const Recipe& recipe) {
  const auto [entry, is_new] = known_.try_emplace(recipe);
  if (!is_new) return entry->second;
  const Filled filled = Plan(recipe);
  Candidate& candidate = entry->second;
  candidate = {recipe, std::numeric_limits<double>::infinity(), filled.missing, filled.uses_device,
               filled.placed_experts};
  if (filled.missing > 0 || effort_ == Effort::kFits) return candidate;
  std::uint64_t key = Mix(filled.layout, static_cast<std::uint64_t>(recipe.chunk));
  key = Mix(key, filled.plan.devices.size() * 64 + recipe.split * 2 + (recipe.stream ? 1 : 0));
  for (const PlanDevice& device : filled.plan.devices) {
    key = Mix(key, static_cast<std::uint64_t>(device.index));
  }
  const auto [time, unknown] = seconds_.try_emplace(key);
  if (unknown) {
    time->second = input_.task.cost.WorkloadSeconds(filled.plan, input_.workload);
    ++evaluations_;
  }
  candidate.seconds = time->second;
  return candidate;
}

void Search::Consider(const Recipe& recipe) {
  if (known_.contains(recipe)) return;
  const Candidate candidate = Evaluate(recipe);
  device_fits_something_ = device_fits_something_ || candidate.uses_device;
  if (must_use_device_ && !candidate.uses_device) return;
  tried_.push_back(candidate);
  if (!best_ || candidate.Better(*best_)) best_ = candidate;
  if (!candidate.uses_device || candidate.missing > 0) return;
  if (!best_with_device_ || candidate.Better(*best_with_device_)) best_with_device_ = candidate;
}

bool Search::MayStream() const {
  if (!input_.task.options.abilities.stream_prefill || resources_.devices.empty() ||
      input_.stream.expert_bytes == 0) {
    return false;
  }
  // Where the profile demands it, a plan that lacks the buffers is refused.
  return input_.profile.prefill_experts == Profile::PrefillExperts::kStream ||
         LeastStreamBuffer(input_.stream) <= resources_.devices[0]->max_alloc_bytes;
}

Recipe Search::Everything() const {
  Recipe all;
  const auto layers = static_cast<std::int64_t>(input_.wants.roles.size());
  all.layers.fill(layers);
  all.head = true;
  all.experts = static_cast<std::int64_t>(input_.expert_order.size());
  all.chunk = first_chunk_;
  all.split = resources_.splits.size() / 2;
  all.stream = MayStream() && input_.profile.prefill_experts == Profile::PrefillExperts::kStream;
  for (std::size_t d = 1; d < resources_.devices.size(); ++d) all.homes.push_back(layers);
  return all;
}

// Each subset of the roles on the devices, with none, a part or all of the experts that fit.
void Search::AddSubsets(std::vector<Recipe>& policies) const {
  const Recipe all = Everything();
  for (int subset = 15; subset >= 0; --subset) {
    Recipe recipe = all;
    if ((subset & 1) == 0) recipe.layers[kAttention] = 0;
    if ((subset & 2) == 0) recipe.layers[kDense] = 0;
    if ((subset & 4) == 0) recipe.layers[kShared] = 0;
    recipe.head = (subset & 8) != 0;
    for (const std::int64_t quarters : {4, 0, 2, 1, 3}) {
      if (quarters % 4 != 0 && subset != 15 && subset != 0) continue;
      recipe.experts = all.experts * quarters / 4;
      policies.push_back(recipe);
    }
    recipe.experts = all.experts;
    recipe.experts_first = true;
    policies.push_back(recipe);
  }
}

// Attention and all else of the first layers, and attention alone.
void Search::AddPrefixes(std::vector<Recipe>& policies) const {
  const Recipe all = Everything();
  for (const std::int64_t eighths : {6, 4, 2, 1}) {
    Recipe recipe = all;
    recipe.layers[kAttention] = all.layers[kAttention] * eighths / 8;
    policies.push_back(recipe);
    recipe.layers.fill(recipe.layers[kAttention]);
    recipe.experts = 0;
    policies.push_back(recipe);
  }
}

// Several devices: the layers' experts dealt out by memory or evenly, beside all on the fastest
// first.
void Search::AddHomes(std::vector<Recipe>& policies) const {
  const std::size_t devices = resources_.devices.size();
  if (devices < 2) return;
  const auto layers = static_cast<double>(input_.wants.roles.size());
  double all = 0;
  for (const std::uint64_t budget : resources_.budgets) all += static_cast<double>(budget);
  Recipe by_memory = Everything();
  Recipe even = by_memory;
  double sum = 0;
  for (std::size_t d = 1; d < devices; ++d) {
    sum += static_cast<double>(resources_.budgets[d - 1]);
    by_memory.homes[d - 1] = static_cast<std::int64_t>(layers * sum / all);
    even.homes[d - 1] =
        static_cast<std::int64_t>(layers * static_cast<double>(d) / static_cast<double>(devices));
  }
  for (Recipe recipe : {by_memory, even}) {
    policies.push_back(recipe);
    recipe.experts_first = true;
    policies.push_back(recipe);
  }
}

std::vector<Recipe> Search::SimplePolicies() const {
  std::vector<Recipe> policies{Everything()};
  Recipe nothing = policies[0];
  nothing.layers.fill(0);
  nothing.head = false;
  nothing.experts = 0;
  if (resources_.devices.empty()) return {nothing};
  policies.push_back(nothing);
  if (effort_ == Effort::kFits) {
    policies.push_back(policies[0]);
    policies.back().experts_first = true;
    AddHomes(policies);
    return policies;
  }
  AddSubsets(policies);
  AddPrefixes(policies);
  AddHomes(policies);
  return policies;
}

// The best few that fit and are not far behind the best.
std::vector<Candidate> Search::Leaders(double factor, std::size_t most) const {
  std::vector<Candidate> leaders;
  for (const Candidate& candidate : tried_) {
    const bool fits = candidate.missing == 0 && best_ && best_->missing == 0;
    if (fits && candidate.seconds <= best_->seconds * factor) leaders.push_back(candidate);
  }
  std::ranges::stable_sort(leaders, {}, &Candidate::seconds);
  const auto same = [](const Candidate& a, const Candidate& b) { return a.seconds == b.seconds; };
  leaders.erase(std::unique(leaders.begin(), leaders.end(), same), leaders.end());
  if (leaders.size() > most) leaders.resize(most);
  return leaders;
}

void Search::TryChunks() {
  if (effort_ == Effort::kFits && best_ && best_->missing == 0) return;
  const std::vector<Candidate> leaders =
      best_ && best_->missing == 0 ? Leaders(2, 24) : tried_;  // a smaller one may make it fit
  for (const std::int64_t chunk : chunks_) {
    for (Candidate leader : leaders) {
      leader.recipe.chunk = chunk;
      Consider(leader.recipe);
    }
  }
}

void Search::TrySplits() {
  if (resources_.splits.size() < 2) return;
  for (Candidate leader : Leaders(4, 8)) {
    for (std::size_t split = 0; split < resources_.splits.size(); ++split) {
      leader.recipe.split = split;
      Consider(leader.recipe);
    }
  }
}

// By halves of those that fit, down to one of every layer.
void Search::AddExpertSteps(const Candidate& current, std::vector<Recipe>& list) const {
  const auto all = static_cast<std::int64_t>(input_.expert_order.size());
  const auto layers = static_cast<std::int64_t>(input_.wants.roles.size());
  const std::int64_t now = current.placed_experts;
  Recipe recipe = current.recipe;
  recipe.experts = all;
  list.push_back(recipe);
  for (std::int64_t step = std::max(now, layers); step >= std::max<std::int64_t>(1, layers / 2);
       step /= 2) {
    for (const std::int64_t sign : {1, -1}) {
      recipe.experts = Clamp(now + sign * step, all);
      list.push_back(recipe);
    }
  }
}

// Recipes that differ in one number, by large steps and small ones.
std::vector<Recipe> Search::Neighbours(const Candidate& current) const {
  std::vector<Recipe> list;
  const Recipe& recipe = current.recipe;
  const Recipe all = Everything();
  const auto add = [&](auto change) {
    Recipe other = recipe;
    change(other);
    if (other != recipe) list.push_back(std::move(other));
  };
  const std::int64_t layers = all.layers[0];
  for (const std::size_t role : {kAttention, kShared, kDense}) {
    for (std::int64_t step = layers; step > 0; step /= 4) {
      for (const std::int64_t sign : {1, -1}) {
        add([&](Recipe& r) { r.layers[role] = Clamp(r.layers[role] + sign * step, layers); });
      }
    }
  }
  add([&](Recipe& r) { r.layers[kRouter] = r.layers[kRouter] > 0 ? 0 : layers; });
  add([](Recipe& r) { r.head = !r.head; });
  add([](Recipe& r) { r.experts_first = !r.experts_first; });
  if (all.experts > 0) AddExpertSteps(current, list);
  const auto at = std::ranges::find(chunks_, recipe.chunk);
  if (at != chunks_.begin()) add([&](Recipe& r) { r.chunk = *(at - 1); });
  if (at + 1 != chunks_.end()) add([&](Recipe& r) { r.chunk = *(at + 1); });
  if (recipe.split > 0) add([](Recipe& r) { --r.split; });
  if (recipe.split + 1 < resources_.splits.size()) add([](Recipe& r) { ++r.split; });
  for (std::size_t d = 0; d < recipe.homes.size(); ++d) {
    for (std::int64_t step = layers / 4; step > 0; step /= 4) {
      for (const std::int64_t sign : {1, -1}) {
        add([&](Recipe& r) { r.homes[d] = Clamp(r.homes[d] + sign * step, layers); });
      }
    }
  }
  const bool may_stream =
      MayStream() && input_.profile.prefill_experts == Profile::PrefillExperts::kAuto;
  if (may_stream) add([](Recipe& r) { r.stream = !r.stream; });
  return list;
}

// Takes the best neighbour, if one is better.
bool Search::ImproveOnce(Candidate& current) {
  Candidate next = current;
  for (const Recipe& recipe : Neighbours(current)) {
    if (evaluations_ >= kMostEvaluations) break;
    Consider(recipe);
    const Candidate candidate = Evaluate(recipe);
    if (must_use_device_ && !candidate.uses_device) continue;
    if (candidate.Better(next)) next = candidate;
  }
  if (!next.Better(current)) return false;
  current = next;
  return true;
}

void Search::Improve(Candidate start) {
  while (evaluations_ < kMostEvaluations && ImproveOnce(start)) {
  }
}

Candidate Search::Run(Effort effort, bool must_use_device) {
  effort_ = effort;
  must_use_device_ = must_use_device;
  for (const Recipe& recipe : SimplePolicies()) Consider(recipe);
  TryChunks();
  TrySplits();
  if (effort_ == Effort::kFull) {
    for (const Candidate& leader : Leaders(1.25, 3)) Improve(leader);
  }
  if (best_) return *best_;
  // Nothing may go to the device that must be used: the plan without it, for what it says.
  return Evaluate(SimplePolicies().back());
}

}  // namespace tandem
