#include "placement/hit_rate.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace tandem {
namespace {

using Lists = std::vector<std::vector<std::uint64_t>>;

// Hits and choices, summed over layers.
struct Tally {
  double hits = 0;
  double all = 0;
  double Rate() const { return all > 0 ? hits / all : 0; }
};

std::vector<double> Reals(const std::vector<std::uint64_t>& values) {
  return {values.begin(), values.end()};
}

double Sum(const std::vector<std::uint64_t>& values) {
  return static_cast<double>(std::accumulate(values.begin(), values.end(), std::uint64_t{0}));
}

void AddChosen(Tally& tally, const std::vector<std::uint64_t>& counts,
               const std::vector<int>& chosen) {
  if (counts.empty()) return;  // a dense layer, or a list that was not recorded
  for (const int e : chosen) tally.hits += static_cast<double>(counts[static_cast<std::size_t>(e)]);
  tally.all += Sum(counts);
}

// The share of entries below n in histograms over positions.
double ShareBelow(const Lists& histograms, std::int64_t n) {
  Tally tally;
  for (const std::vector<std::uint64_t>& histogram : histograms) {
    if (histogram.empty()) continue;
    const auto end = std::min(static_cast<std::size_t>(n), histogram.size() - 1);  // no first uses
    for (std::size_t d = 0; d < end; ++d) tally.hits += static_cast<double>(histogram[d]);
    tally.all += Sum(histogram);
  }
  return tally.Rate();
}

std::vector<int> FirstIds(std::int64_t n) {
  std::vector<int> ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

}  // namespace

std::vector<int> HottestExperts(std::span<const double> values, std::int64_t n) {
  std::vector<int> ids = FirstIds(std::ssize(values));
  std::ranges::stable_sort(ids, [&](int a, int b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  ids.resize(static_cast<std::size_t>(std::clamp<std::int64_t>(n, 0, std::ssize(values))));
  return ids;
}

std::int64_t ExpertsOfPercent(std::int64_t experts, int percent) {
  return std::max<std::int64_t>(1, (experts * percent + 50) / 100);
}

double TopShare(std::span<const double> shares, std::int64_t n) {
  double share = 0;
  for (const int e : HottestExperts(shares, n)) share += shares[static_cast<std::size_t>(e)];
  return share;
}

double RelativeEntropy(std::span<const double> shares) {
  if (shares.size() < 2) return 1;
  double entropy = 0;
  for (const double p : shares) entropy -= p > 0 ? p * std::log(p) : 0;
  return entropy / std::log(static_cast<double>(shares.size()));
}

double Imbalance(std::span<const double> shares) {
  if (shares.empty()) return 1;
  return *std::ranges::max_element(shares) * static_cast<double>(shares.size());
}

CacheHitRates HitRatesOfCaches(const RoutingCounts& counted, std::int64_t n) {
  Tally choices;
  Tally fetches;
  for (std::size_t l = 0; l < counted.counts.size(); ++l) {
    const std::vector<int> hottest = HottestExperts(Reals(counted.counts[l]), n);
    AddChosen(choices, counted.counts[l], hottest);
    if (l < counted.chunk_uses.size()) AddChosen(fetches, counted.chunk_uses[l], hottest);
  }
  return {.lru = ShareBelow(counted.distances, n),
          .lfu = ShareBelow(counted.ranks, n),
          .best_fixed = choices.Rate(),
          .best_fixed_fetches = fetches.Rate()};
}

DeviceHitRates HitRatesOfPlan(const RoutingStatistics& planned_with, Phase phase,
                              const RoutingCounts& counted, std::int64_t n) {
  n = std::clamp<std::int64_t>(n, 0, planned_with.experts);
  Tally planned;
  Tally by_id;
  Tally best;
  for (std::size_t l = 0; l < counted.counts.size(); ++l) {
    const std::vector<std::uint64_t>& counts = counted.counts[l];
    const auto shares = planned_with.Shares(phase, static_cast<std::int64_t>(l));
    AddChosen(planned, counts, HottestExperts(shares, n));
    AddChosen(by_id, counts, FirstIds(n));
    AddChosen(best, counts, HottestExperts(Reals(counts), n));
  }
  return {.planned = planned.Rate(),
          .by_id = by_id.Rate(),
          .uniform = static_cast<double>(n) / static_cast<double>(planned_with.experts),
          .best_fixed = best.Rate()};
}

double ExpertsPerChunk(const RoutingCounts& counted) {
  double uses = 0;
  double layers = 0;
  for (const std::vector<std::uint64_t>& layer : counted.chunk_uses) {
    uses += Sum(layer);
    layers += layer.empty() ? 0 : 1;
  }
  const double steps = layers * static_cast<double>(counted.chunks);
  return steps > 0 ? uses / steps : 0;
}

}  // namespace tandem
