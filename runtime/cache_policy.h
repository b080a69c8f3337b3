#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace tandem {

struct CacheRule {
  double decay = 0.98;  // of a use, per step
  double least = 2.0;   // decayed uses that an admission takes
  double factor = 1.5;  // by which a newcomer's exceed those of the one it takes the place of
  std::int64_t least_age = 32;  // steps that an expert stays at least
};

// A place that changes hands: `out` left it at once, `in` has it when it arrives.
struct CacheExchange {
  std::size_t slot = 0;
  std::size_t in = 0;
  std::optional<std::size_t> out;
};

// Which experts a cache holds: those with the most uses, each counted less the longer it is ago.
// Knows no memory.
class CachePolicy {
 public:
  CachePolicy(std::size_t experts, std::size_t slots, const CacheRule& rule = {});

  void Use(std::size_t expert) { uses_[expert] += weight_; }  // in this step
  void EndStep();
  // Begins an exchange that is worth it; nullopt: none is.
  std::optional<CacheExchange> Next();
  void Arrived(const CacheExchange& exchange);

  // nullopt: not here, or not yet.
  std::optional<std::size_t> SlotOf(std::size_t expert) const;
  // The expert of a slot that has arrived.
  std::optional<std::size_t> ExpertIn(std::size_t slot) const;
  double Uses(std::size_t expert) const { return uses_[expert] / weight_; }

 private:
  static constexpr std::int32_t kNone = -1;
  struct Slot {
    std::int32_t expert = kNone;
    bool arrived = false;
    std::int64_t since = 0;
  };
  std::optional<std::size_t> Hottest() const;
  std::optional<std::size_t> FreeSlot() const;
  std::optional<std::size_t> ColdestSlot() const;

  CacheRule rule_;
  std::vector<double> uses_;  // times weight_
  double weight_ = 1;         // grows instead of all uses shrinking
  std::vector<std::int32_t> slot_of_;
  std::vector<Slot> slots_;
  std::int64_t step_ = 0;
};

}  // namespace tandem
