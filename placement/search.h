#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "placement/fill_plan.h"
#include "placement/plan_input.h"

namespace tandem {

// How hard to look: whether anything fits, the best of the simple policies, or improving on them.
enum class Effort : std::uint8_t { kFits, kPolicies, kFull };

struct Candidate {
  Recipe recipe;
  double seconds = 0;         // of the workload; infinite if it does not fit
  std::uint64_t missing = 0;  // bytes
  bool uses_device = false;
  std::int64_t placed_experts = 0;  // of Recipe::experts, as far as they fit
  bool Better(const Candidate& other) const;
};

// Looks for the recipe with the least predicted time on one set of devices. Deterministic.
class Search {
 public:
  Search(const PlanInput& input, const Resources& resources);

  // The best found; with the fewest bytes missing if none fits. `must_use_device`: only plans that
  // use one count, as the user named it.
  Candidate Run(Effort effort, bool must_use_device);
  // The plan of a recipe.
  Filled Plan(const Recipe& recipe);
  bool device_fits_something() const { return device_fits_something_; }
  // The best that fits and uses a device; null if none does.
  const Candidate* best_with_device() const {
    return best_with_device_ ? &*best_with_device_ : nullptr;
  }
  int evaluations() const { return evaluations_; }

 private:
  std::vector<Recipe> SimplePolicies() const;
  void ChooseChunks();
  bool MayStream() const;
  Recipe Everything() const;
  void AddSubsets(std::vector<Recipe>& policies) const;
  void AddPrefixes(std::vector<Recipe>& policies) const;
  void AddHomes(std::vector<Recipe>& policies) const;
  Candidate Evaluate(const Recipe& recipe);
  void Consider(const Recipe& recipe);
  void TryChunks();
  void TrySplits();
  void Improve(Candidate start);
  bool ImproveOnce(Candidate& current);
  std::vector<Recipe> Neighbours(const Candidate& current) const;
  void AddExpertSteps(const Candidate& current, std::vector<Recipe>& list) const;
  std::vector<Candidate> Leaders(double factor, std::size_t most) const;

  const PlanInput& input_;
  const Resources& resources_;
  std::vector<std::int64_t> chunks_;  // PlanInput::chunks, and halves of the profile's
  std::int64_t first_chunk_ = 0;      // of these, where the search begins
  ScratchSizes scratch_;
  Effort effort_ = Effort::kFull;
  bool must_use_device_ = false;
  bool device_fits_something_ = false;
  std::map<Recipe, Candidate> known_;
  std::unordered_map<std::uint64_t, double> seconds_;  // by layout, chunk and split
  std::vector<Candidate> tried_;                       // in order
  std::optional<Candidate> best_;
  std::optional<Candidate> best_with_device_;
  int evaluations_ = 0;
};

}  // namespace tandem
