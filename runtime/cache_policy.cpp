#include "runtime/cache_policy.h"

#include <algorithm>

#include "memory/error.h"

namespace tandem {

CachePolicy::CachePolicy(std::size_t experts, std::size_t slots, const CacheRule& rule)
    : rule_(rule), uses_(experts), slot_of_(experts, kNone), slots_(slots) {}

void CachePolicy::EndStep() {
  constexpr double kMost = 1e100;
  ++step_;
  weight_ /= rule_.decay;
  if (weight_ < kMost) return;
  for (double& uses : uses_) uses /= weight_;
  weight_ = 1;
}

// Of the experts that are neither here nor under way; nullopt: none has enough uses.
std::optional<std::size_t> CachePolicy::Hottest() const {
  std::optional<std::size_t> hottest;
  double most = rule_.least * weight_;
  for (std::size_t e = 0; e < uses_.size(); ++e) {
    if (slot_of_[e] != kNone || uses_[e] < most) continue;
    if (hottest && uses_[e] == most) continue;
    hottest = e;
    most = uses_[e];
  }
  return hottest;
}

std::optional<std::size_t> CachePolicy::FreeSlot() const {
  const auto slot = std::ranges::find(slots_, kNone, &Slot::expert);
  if (slot == slots_.end()) return std::nullopt;
  return static_cast<std::size_t>(slot - slots_.begin());
}

// Of those that have stayed long enough.
std::optional<std::size_t> CachePolicy::ColdestSlot() const {
  std::optional<std::size_t> coldest;
  double least = 0;
  for (std::size_t s = 0; s < slots_.size(); ++s) {
    const Slot& slot = slots_[s];
    if (!slot.arrived || step_ - slot.since < rule_.least_age) continue;
    const double uses = uses_[static_cast<std::size_t>(slot.expert)];
    if (coldest && uses >= least) continue;
    coldest = s;
    least = uses;
  }
  return coldest;
}

std::optional<CacheExchange> CachePolicy::Next() {
  const std::optional<std::size_t> in = Hottest();
  if (!in) return std::nullopt;
  CacheExchange exchange{0, *in, std::nullopt};
  if (const auto free = FreeSlot()) {
    exchange.slot = *free;
  } else {
    const std::optional<std::size_t> slot = ColdestSlot();
    if (!slot) return std::nullopt;
    const auto out = static_cast<std::size_t>(slots_[*slot].expert);
    if (uses_[*in] <= rule_.factor * uses_[out]) return std::nullopt;
    exchange.slot = *slot;
    exchange.out = out;
    slot_of_[out] = kNone;
  }
  slots_[exchange.slot] = {static_cast<std::int32_t>(*in), false, 0};
  slot_of_[*in] = static_cast<std::int32_t>(exchange.slot);
  return exchange;
}

void CachePolicy::Arrived(const CacheExchange& exchange) {
  Slot& slot = slots_[exchange.slot];
  TANDEM_CHECK(slot.expert == static_cast<std::int32_t>(exchange.in) && !slot.arrived);
  slot.arrived = true;
  slot.since = step_;
}

std::optional<std::size_t> CachePolicy::SlotOf(std::size_t expert) const {
  const std::int32_t slot = slot_of_[expert];
  if (slot == kNone || !slots_[static_cast<std::size_t>(slot)].arrived) return std::nullopt;
  return static_cast<std::size_t>(slot);
}

std::optional<std::size_t> CachePolicy::ExpertIn(std::size_t slot) const {
  if (!slots_[slot].arrived) return std::nullopt;
  return static_cast<std::size_t>(slots_[slot].expert);
}

}  // namespace tandem
