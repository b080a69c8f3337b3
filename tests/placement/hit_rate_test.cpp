// ctest: unit
// Hit rates from histograms against caches that are simulated step by step.
#include "placement/hit_rate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "placement/statistics_counter.h"

namespace tandem {
namespace {

constexpr std::int64_t kExperts = 12;
constexpr std::int64_t kChosen = 3;
constexpr int kTokens = 400;

using Token = std::vector<std::int32_t>;

// Tokens whose experts are different ones, uneven, and like those of the token before.
std::vector<Token> Stream(unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Token> stream;
  for (int t = 0; t < kTokens; ++t) {
    Token token;
    if (t > 0 && random() % 2 == 0) token.push_back(stream.back().front());
    while (std::ssize(token) < kChosen) {
      const auto id = static_cast<std::int32_t>(std::min(random() % kExperts, random() % kExperts));
      if (std::ranges::find(token, id) == token.end()) token.push_back(id);
    }
    std::ranges::shuffle(token, random);
    stream.push_back(token);
  }
  return stream;
}

RoutingCounts Count(const std::vector<Token>& stream, Phase phase, std::size_t chunk) {
  StatisticsCounter counter(phase, 2, kExperts, kChosen);
  for (std::size_t t = 0; t < stream.size(); t += chunk) {
    const std::size_t end = std::min(t + chunk, stream.size());
    Token ids;
    for (std::size_t i = t; i < end; ++i) ids.insert(ids.end(), stream[i].begin(), stream[i].end());
    counter.Add(1, ids);  // layer 0 is dense
    counter.EndStep(static_cast<std::int64_t>(end - t));
  }
  return counter.counts();
}

// A cache of n entries, least recently used at the end.
int LruHits(const std::vector<Token>& stream, std::size_t n) {
  std::deque<std::int32_t> cache;
  int hits = 0;
  for (const Token& token : stream) {
    for (const std::int32_t id : token) hits += std::ranges::count(cache, id) > 0 ? 1 : 0;
    for (auto id = token.rbegin(); id != token.rend(); ++id) {
      std::erase(cache, *id);
      cache.push_front(*id);
      if (cache.size() > n) cache.pop_back();
    }
  }
  return hits;
}

// The n experts with the largest (uses, time of the last use), from scratch for every token.
int LfuHits(const std::vector<Token>& stream, std::size_t n) {
  std::vector<std::pair<int, int>> uses(kExperts);  // count, time
  int hits = 0;
  int now = 0;
  for (const Token& token : stream) {
    for (const std::int32_t id : token) {
      const auto mine = uses[static_cast<std::size_t>(id)];
      const auto before = std::ranges::count_if(uses, [&](const auto& u) { return u > mine; });
      hits += mine.first > 0 && before < std::ssize(uses) && static_cast<std::size_t>(before) < n;
    }
    for (auto id = token.rbegin(); id != token.rend(); ++id) {
      auto& use = uses[static_cast<std::size_t>(*id)];
      use = {use.first + 1, ++now};
    }
  }
  return hits;
}

TEST(HitRate, HistogramsEqualCachesThatAreSimulated) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    const auto stream = Stream(seed);
    const RoutingCounts counts = Count(stream, Phase::kDecode, 7);
    for (std::int64_t n = 1; n <= kExperts; ++n) {
      const CacheHitRates rates = HitRatesOfCaches(counts, n);
      const double choices = kTokens * kChosen;
      EXPECT_DOUBLE_EQ(rates.lru, LruHits(stream, static_cast<std::size_t>(n)) / choices) << n;
      EXPECT_DOUBLE_EQ(rates.lfu, LfuHits(stream, static_cast<std::size_t>(n)) / choices) << n;
    }
  }
}

TEST(HitRate, ThePoliciesDiffer) {
  const CacheHitRates rates = HitRatesOfCaches(Count(Stream(1), Phase::kDecode, 1), 4);
  EXPECT_NE(rates.lru, rates.lfu);
  EXPECT_GT(rates.lru, 0.3);
  EXPECT_LT(rates.best_fixed, 1);
}

TEST(HitRate, AFullCacheMissesFirstUsesOnly) {
  const RoutingCounts counts = Count(Stream(4), Phase::kDecode, 1);
  const auto used = std::ranges::count_if(counts.counts[1], [](auto c) { return c > 0; });
  const double expected = 1 - static_cast<double>(used) / (kTokens * kChosen);
  EXPECT_DOUBLE_EQ(HitRatesOfCaches(counts, kExperts).lru, expected);
  EXPECT_DOUBLE_EQ(HitRatesOfCaches(counts, kExperts).lfu, expected);
  EXPECT_DOUBLE_EQ(HitRatesOfCaches(counts, kExperts).best_fixed, 1);
}

TEST(HitRate, PrefillNeedsAnExpertOncePerChunk) {
  const std::vector<Token> stream = {{0, 1, 2}, {0, 1, 3}, {0, 4, 5}, {0, 6, 7}};
  const RoutingCounts counts = Count(stream, Phase::kPrefill, 2);
  EXPECT_EQ(counts.chunks, 2);
  EXPECT_EQ(counts.counts[1], (std::vector<std::uint64_t>{4, 2, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(counts.chunk_uses[1], (std::vector<std::uint64_t>{2, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_DOUBLE_EQ(ExpertsPerChunk(counts), 4.5);
  const CacheHitRates two = HitRatesOfCaches(counts, 2);
  EXPECT_DOUBLE_EQ(two.best_fixed, 6.0 / 12);
  EXPECT_DOUBLE_EQ(two.best_fixed_fetches, 3.0 / 9);
}

TEST(HitRate, InDecodeEveryTokenIsAStep) {
  const RoutingCounts counts = Count(Stream(5), Phase::kDecode, 64);
  EXPECT_EQ(counts.chunks, kTokens);
  EXPECT_EQ(counts.chunk_uses, counts.counts);
}

RoutingStatistics StatisticsOf(const RoutingCounts& counts) {
  RoutingStatistics s;
  s.layers = 2;
  s.experts = kExperts;
  s.experts_per_token = kChosen;
  s.domains.push_back({.name = "a", .phases = {{}, counts}});
  return s;
}

TEST(HitRate, PlansLieBetweenNothingAndHindsight) {
  const RoutingStatistics planned = StatisticsOf(Count(Stream(6), Phase::kDecode, 1));
  const RoutingCounts other = Count(Stream(7), Phase::kDecode, 1);
  for (std::int64_t n = 0; n <= kExperts; ++n) {
    const DeviceHitRates rates = HitRatesOfPlan(planned, Phase::kDecode, other, n);
    EXPECT_DOUBLE_EQ(rates.uniform, static_cast<double>(n) / kExperts);
    EXPECT_LE(rates.planned, rates.best_fixed) << n;
    EXPECT_LE(rates.by_id, rates.best_fixed) << n;
    const DeviceHitRates own =
        HitRatesOfPlan(planned, Phase::kDecode, planned.Total(Phase::kDecode), n);
    EXPECT_DOUBLE_EQ(own.planned, own.best_fixed) << n;
  }
}

TEST(HitRate, PlansByHand) {
  RoutingCounts a;
  a.tokens = 10;
  a.counts = {{}, {1, 0, 6, 0, 3, 0, 0, 0, 0, 0, 0, 0}};
  RoutingCounts b = a;
  b.counts = {{}, {2, 5, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0}};
  const DeviceHitRates rates = HitRatesOfPlan(StatisticsOf(a), Phase::kDecode, b, 2);
  EXPECT_DOUBLE_EQ(rates.planned, 0.1);  // experts 2 and 4
  EXPECT_DOUBLE_EQ(rates.by_id, 0.7);
  EXPECT_DOUBLE_EQ(rates.uniform, 2.0 / 12);
  EXPECT_DOUBLE_EQ(rates.best_fixed, 0.7);
}

TEST(HitRate, HottestExpertsByValueThenId) {
  const std::vector<double> values = {1, 5, 3, 5, 0};
  EXPECT_EQ(HottestExperts(values, 3), (std::vector<int>{1, 3, 2}));
  EXPECT_EQ(HottestExperts(values, 9), (std::vector<int>{1, 3, 2, 0, 4}));
  EXPECT_TRUE(HottestExperts(values, 0).empty());
}

TEST(HitRate, PercentOfExperts) {
  EXPECT_EQ(ExpertsOfPercent(32, 10), 3);
  EXPECT_EQ(ExpertsOfPercent(32, 25), 8);
  EXPECT_EQ(ExpertsOfPercent(256, 10), 26);
  EXPECT_EQ(ExpertsOfPercent(4, 10), 1);
}

TEST(HitRate, Evenness) {
  const std::vector<double> uniform(8, 0.125);
  EXPECT_DOUBLE_EQ(RelativeEntropy(uniform), 1);
  EXPECT_DOUBLE_EQ(Imbalance(uniform), 1);
  EXPECT_DOUBLE_EQ(TopShare(uniform, 2), 0.25);
  const std::vector<double> one = {0, 1, 0, 0};
  EXPECT_DOUBLE_EQ(RelativeEntropy(one), 0);
  EXPECT_DOUBLE_EQ(Imbalance(one), 4);
}

}  // namespace
}  // namespace tandem
