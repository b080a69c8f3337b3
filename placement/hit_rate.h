#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "placement/statistics.h"

namespace tandem {

// The n experts with the largest values, hottest first; equal ones by id.
std::vector<int> HottestExperts(std::span<const double> values, std::int64_t n);

// How many of `experts` a percentage is: rounded, at least one.
std::int64_t ExpertsOfPercent(std::int64_t experts, int percent);

// How unevenly a layer's choices fall, from its shares [E] (which sum to 1).
double TopShare(std::span<const double> shares, std::int64_t n);  // of the n hottest
double RelativeEntropy(std::span<const double> shares);  // 1: uniform, 0: always the same expert
double Imbalance(std::span<const double> shares);        // hottest share over the mean share

// Shares of choices that find their expert among the n that a cache holds per layer, over all
// layers that were counted; 0 where nothing was.
struct CacheHitRates {
  double lru = 0;  // fetches every expert that misses, in place of the least recently used one
  double lfu = 0;  // holds those chosen most often so far; others pass it by
  double best_fixed = 0;          // never changes: the n hottest of this very text, known before
  double best_fixed_fetches = 0;  // of the same set: share of chunk_uses, the fetches of weights
};
CacheHitRates HitRatesOfCaches(const RoutingCounts& counted, std::int64_t n);

// Shares of choices that fall on experts which a plan put on devices, n per layer.
struct DeviceHitRates {
  double planned = 0;     // the n hottest of the statistics that planned
  double by_id = 0;       // experts 0 to n-1: one uniform choice
  double uniform = 0;     // n / E: the mean over all uniform choices
  double best_fixed = 0;  // the n hottest in hindsight: no fixed set does better
};
DeviceHitRates HitRatesOfPlan(const RoutingStatistics& planned_with, Phase phase,
                              const RoutingCounts& counted, std::int64_t n);

// Experts that a chunk needs in a layer, on average; 0 where chunks were not counted.
double ExpertsPerChunk(const RoutingCounts& counted);

}  // namespace tandem
