// ctest: unit
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::map<std::int32_t, int> Counts(const SamplerOptions& options, const std::vector<float>& logits,
                                   int draws) {
  Sampler sampler(options);
  std::map<std::int32_t, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[sampler.Sample(logits)];
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestIdOfEquals) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 3, -2, 3, 0}), 1);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-kInf, -5, -kInf}), 1);
}

// The same seed gives these ids on every platform: they were computed once, by hand of the formula
// in the header (xoshiro256** after splitmix64), in Python.
TEST(Sampler, RandomIsXoshiro256StarStar) {
  Random random(42);
  EXPECT_EQ(random.Next(), 0x15780B2E0C2EC716U);
  EXPECT_EQ(random.Next(), 0x6104D9866D113A7EU);
  EXPECT_EQ(random.Next(), 0xAE17533239E499A1U);
}

TEST(Sampler, SameSeedSameTokens) {
  const std::vector<float> logits = {0.5F, 1, 1.5F, 0, -1};
  Sampler a({.temperature = 1, .seed = 7});
  Sampler b({.temperature = 1, .seed = 7});
  Sampler c({.temperature = 1, .seed = 8});
  int different = 0;
  for (int i = 0; i < 200; ++i) {
    const std::int32_t id = a.Sample(logits);
    ASSERT_EQ(id, b.Sample(logits)) << "draw " << i;
    different += static_cast<int>(id != c.Sample(logits));
  }
  EXPECT_GT(different, 50);
}

// Each count is binomial: within 5 standard deviations of n*p.
TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0, 1, 2, -kInf, 3};
  constexpr int kDraws = 20000;
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0;
    for (const float logit : logits) total += std::exp(logit / temperature);
    auto counts = Counts({.temperature = temperature, .seed = 3}, logits, kDraws);
    for (std::int32_t id = 0; id < 5; ++id) {
      const double p = std::exp(logits[id] / temperature) / total;
      EXPECT_NEAR(counts[id], kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)))
          << "id " << id << ", temperature " << temperature;
    }
  }
}

TEST(Sampler, TopKKeepsTheBest) {
  const auto counts = Counts({.temperature = 5, .top_k = 2}, {1, 4, 2, 3, 0}, 500);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_TRUE(counts.contains(1) && counts.contains(3));
  // A tie at the border goes to the lower id, and a k above the vocabulary keeps all.
  EXPECT_TRUE(Counts({.temperature = 5, .top_k = 2}, {9, 1, 1, 1}, 300).contains(1));
  EXPECT_EQ(Counts({.temperature = 5, .top_k = 2}, {9, 1, 1, 1}, 300).size(), 2U);
  EXPECT_EQ(Counts({.temperature = 50, .top_k = 99}, {1, 2, 3}, 300).size(), 3U);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatHoldsTheShare) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits = {std::log(0.15F), std::log(0.5F), std::log(0.05F),
                                     std::log(0.3F)};
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 0.4}, logits, 300).size(), 1U);
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 0.75}, logits, 300).size(), 2U);
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 0.9}, logits, 300).size(), 3U);
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 1}, logits, 3000).size(), 4U);
  // Of the two that top_k leaves, the first holds 0.625.
  EXPECT_EQ(Counts({.temperature = 1, .top_k = 2, .top_p = 0.6}, logits, 300).size(), 1U);
}

TEST(Sampler, MinPDropsWhatIsFarBelowTheBest) {
  const std::vector<float> logits = {std::log(0.15F), std::log(0.5F), std::log(0.05F),
                                     std::log(0.3F)};
  EXPECT_EQ(Counts({.temperature = 1, .min_p = 0.5}, logits, 300).size(), 2U);
  EXPECT_EQ(Counts({.temperature = 1, .min_p = 1}, logits, 300).size(), 1U);
}

// F62
TEST(Sampler, TinyAndHugeTemperaturesStayFinite) {
  const std::vector<float> logits = {3e38F, 1, -3e38F, 3e38F};
  for (const double temperature : {1e-9, 1e-300, 5e-324}) {
    const auto counts = Counts({.temperature = temperature}, logits, 100);
    EXPECT_EQ(counts.size(), 2U) << temperature;  // the two that tie
  }
  EXPECT_EQ(Counts({.temperature = 100}, {1, 1, 1}, 300).size(), 3U);
}

void ExpectInternal(const std::vector<float>& logits, const std::string& words) {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    try {
      sampler.Sample(logits);
      FAIL() << "expected: " << words;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kInternal);
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
}

// F62
TEST(Sampler, NonFiniteLogitsAreAnError) {
  ExpectInternal({0, static_cast<float>(kNan), 1}, "non-finite logits");
  ExpectInternal({static_cast<float>(kNan)}, "non-finite logits");
  ExpectInternal({0, kInf, 1}, "non-finite logits");
  ExpectInternal({-kInf, -kInf}, "no allowed token");
}

// F62
TEST(Sampler, RangesAreChecked) {
  struct Case {
    SamplerOptions options;
    const char* flag;
  };
  const std::vector<Case> cases = {
      {{.temperature = kNan}, "--temperature"},
      {{.temperature = -1}, "--temperature"},
      {{.temperature = 1e9}, "--temperature"},
      {{.temperature = 1, .top_k = -1}, "--top-k"},
      {{.temperature = 1, .top_p = 0}, "--top-p"},
      {{.temperature = 1, .top_p = kNan}, "--top-p"},
      {{.temperature = 1, .top_p = 1.5}, "--top-p"},
      {{.temperature = 1, .min_p = 1.1}, "--min-p"},
      {{.temperature = 1, .min_p = -0.1}, "--min-p"},
      {{.temperature = 1, .min_p = kNan}, "--min-p"},
  };
  for (const Case& c : cases) {
    try {
      Sampler sampler(c.options);
      ADD_FAILURE() << "expected an error about " << c.flag;
    } catch (const UsageError& error) {
      EXPECT_EQ(std::string(error.what()).find(c.flag), 0U) << error.what();
    }
  }
}

}  // namespace
}  // namespace tandem
