#include "placement/statistics_counter.h"

#include <algorithm>
#include <cstddef>

#include "memory/error.h"

namespace tandem {
namespace {

// Where an expert stands in an order; `absent` if it was never used.
std::size_t PositionIn(const std::vector<std::int32_t>& order, std::int32_t expert,
                       std::size_t absent) {
  const auto at = std::ranges::find(order, expert);
  return at == order.end() ? absent : static_cast<std::size_t>(at - order.begin());
}

// Moves an expert, which may be new, forward to `first`; those between go one back.
void MoveTo(std::vector<std::int32_t>& order, std::size_t first, std::int32_t expert) {
  auto at = std::ranges::find(order, expert);
  if (at == order.end()) at = order.insert(at, expert);
  std::rotate(order.begin() + static_cast<std::ptrdiff_t>(first), at, at + 1);
}

}  // namespace

StatisticsCounter::StatisticsCounter(Phase phase, std::int64_t layers, std::int64_t experts,
                                     std::int64_t experts_per_token)
    : phase_(phase),
      experts_(static_cast<std::size_t>(experts)),
      experts_per_token_(static_cast<std::size_t>(experts_per_token)),
      orders_(static_cast<std::size_t>(layers)) {
  const auto n = static_cast<std::size_t>(layers);
  counts_.counts.resize(n);
  counts_.distances.resize(n);
  counts_.ranks.resize(n);
  counts_.chunk_uses.resize(n);
}

void StatisticsCounter::Add(std::int64_t layer, std::span<const std::int32_t> ids) {
  TANDEM_CHECK(ids.size() % experts_per_token_ == 0);
  const auto l = static_cast<std::size_t>(layer);
  counts_.counts[l].resize(experts_);
  counts_.distances[l].resize(experts_ + 1);
  counts_.ranks[l].resize(experts_ + 1);
  counts_.chunk_uses[l].resize(experts_);
  if (phase_ == Phase::kPrefill) CountChunk(l, ids);
  for (std::size_t t = 0; t < ids.size(); t += experts_per_token_) {
    const auto token = ids.subspan(t, experts_per_token_);
    if (phase_ == Phase::kDecode) CountChunk(l, token);
    AddToken(l, token);
  }
}

void StatisticsCounter::EndStep(std::int64_t tokens) {
  counts_.tokens += tokens;
  counts_.chunks += phase_ == Phase::kPrefill ? 1 : tokens;
}

void StatisticsCounter::AddToken(std::size_t layer, std::span<const std::int32_t> ids) {
  const Orders& orders = orders_[layer];
  for (const std::int32_t id : ids) {
    ++counts_.distances[layer][PositionIn(orders.recent, id, experts_)];
    ++counts_.ranks[layer][PositionIn(orders.frequent, id, experts_)];
  }
  // The strongest choice comes last, so that it is the latest used.
  for (auto id = ids.rbegin(); id != ids.rend(); ++id) Use(layer, *id);
}

void StatisticsCounter::Use(std::size_t layer, std::int32_t expert) {
  Orders& orders = orders_[layer];
  const std::vector<std::uint64_t>& counts = counts_.counts[layer];
  const std::uint64_t now = ++counts_.counts[layer][static_cast<std::size_t>(expert)];
  MoveTo(orders.recent, 0, expert);
  const auto more_often = [&](std::int32_t other) {
    return counts[static_cast<std::size_t>(other)] > now;
  };
  const auto first = std::ranges::find_if_not(orders.frequent, more_often);
  MoveTo(orders.frequent, static_cast<std::size_t>(first - orders.frequent.begin()), expert);
}

void StatisticsCounter::CountChunk(std::size_t layer, std::span<const std::int32_t> ids) {
  std::vector<bool> chosen(experts_, false);
  for (const std::int32_t id : ids) chosen[static_cast<std::size_t>(id)] = true;
  for (std::size_t e = 0; e < experts_; ++e) counts_.chunk_uses[layer][e] += chosen[e] ? 1 : 0;
}

}  // namespace tandem
