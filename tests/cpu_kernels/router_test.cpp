// ctest: unit
#include "cpu_kernels/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "tests/support/random.h"

namespace tandem::cpu {
namespace {

using test::Random;

struct Result {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
};

Result Call(Isa isa, RouterArgs a) {
  Result r;
  r.ids.resize(static_cast<std::size_t>(a.T * a.K));
  r.weights.resize(r.ids.size());
  a.ids = r.ids.data();
  a.weights = r.weights.data();
  MakeKernelTable(isa).router(a);
  return r;
}

// Indices of the `count` largest, by a stable sort: equal values keep the order of their index.
std::vector<std::size_t> Top(const std::vector<double>& values, std::size_t count) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

std::vector<double> Scores(const RouterArgs& a, const float* logits) {
  std::vector<double> s(logits, logits + a.E);
  if (a.scoring == ScoringFunc::kSigmoid) {
    for (double& v : s) v = 1 / (1 + std::exp(-v));
    return s;
  }
  const double maximum = *std::max_element(s.begin(), s.end());
  double sum = 0;
  for (double& v : s) sum += v = std::exp(v - maximum);
  for (double& v : s) v /= sum;
  return s;
}

double GroupScore(const RouterArgs& a, std::vector<double> group) {
  std::sort(group.rbegin(), group.rend());
  if (a.method == TopkMethod::kNoauxTc && group.size() > 1) return group[0] + group[1];
  return group[0];
}

std::vector<double> Selection(const RouterArgs& a, const std::vector<double>& scores) {
  std::vector<double> t = scores;
  if (a.method == TopkMethod::kGreedy) return t;
  for (std::size_t e = 0; e < t.size(); ++e) {
    if (a.method == TopkMethod::kNoauxTc && a.bias != nullptr) t[e] += a.bias[e];
  }
  const auto size = static_cast<std::ptrdiff_t>(a.E / a.n_group);
  std::vector<double> groups;
  for (auto at = t.begin(); at != t.end(); at += size)
    groups.push_back(GroupScore(a, {at, at + size}));
  std::vector<bool> kept(groups.size());
  for (const std::size_t g : Top(groups, static_cast<std::size_t>(a.topk_group))) kept[g] = true;
  for (std::size_t e = 0; e < t.size(); ++e) {
    if (!kept[e / static_cast<std::size_t>(size)]) t[e] = -HUGE_VAL;
  }
  return t;
}

void CheckRow(const RouterArgs& a, std::int64_t t, const Result& got, const std::string& what) {
  const std::vector<double> scores = Scores(a, a.logits + t * a.logits_stride);
  const std::vector<std::size_t> chosen = Top(Selection(a, scores), static_cast<std::size_t>(a.K));
  double sum = 1e-20;
  for (const std::size_t e : chosen) sum += scores[e];
  for (std::int64_t i = 0; i < a.K; ++i) {
    const std::size_t e = chosen[static_cast<std::size_t>(i)];
    double want = scores[e];
    if (a.norm_topk_prob) want /= sum;
    if (a.scale_normalised || !a.norm_topk_prob || a.K == 1) want *= a.routed_scaling_factor;
    const auto at = static_cast<std::size_t>(t * a.K + i);
    ASSERT_EQ(got.ids[at], static_cast<std::int32_t>(e)) << what << " row " << t << " place " << i;
    ASSERT_NEAR(got.weights[at], want, std::fabs(want) * 2e-6) << what << " row " << t;
  }
}

RouterArgs V3(const std::vector<float>& logits, const std::vector<float>& bias) {
  RouterArgs a;
  a.logits = logits.data();
  a.bias = bias.data();
  a.E = 256;
  a.K = 8;
  a.n_group = 8;
  a.topk_group = 4;
  a.logits_stride = 256;
  a.T = static_cast<std::int64_t>(logits.size()) / 256;
  a.scoring = ScoringFunc::kSigmoid;
  a.method = TopkMethod::kNoauxTc;
  a.norm_topk_prob = true;
  a.routed_scaling_factor = 2.5F;
  return a;
}

TEST(Router, AllMethodsEqualAnIndependentFormula) {
  Random random(5);
  const std::vector<float> logits = random.Uniforms(256 * 40, -4, 4);
  const std::vector<float> bias = random.Uniforms(256, -0.5F, 0.5F);
  for (const TopkMethod method :
       {TopkMethod::kGreedy, TopkMethod::kGroupLimitedGreedy, TopkMethod::kNoauxTc}) {
    for (const ScoringFunc scoring : {ScoringFunc::kSoftmax, ScoringFunc::kSigmoid}) {
      for (const int flags : {0, 1, 2, 3}) {
        RouterArgs a = V3(logits, bias);
        a.method = method;
        a.scoring = scoring;
        a.norm_topk_prob = (flags & 1) != 0;
        a.scale_normalised = (flags & 2) != 0;
        for (const Isa isa : SupportedIsas()) {
          const Result got = Call(isa, a);
          const std::string what = std::string(Name(isa)) + " method " +
                                   std::to_string(static_cast<int>(method)) + " flags " +
                                   std::to_string(flags);
          for (std::int64_t t = 0; t < a.T; ++t) CheckRow(a, t, got, what);
        }
      }
    }
  }
}

TEST(Router, WorksForEverySizeAndStride) {
  Random random(6);
  const std::vector<float> logits = random.Uniforms(3 * 1030, -3, 3);
  for (const std::int64_t E : {1, 2, 8, 64, 160, 384, 1024}) {
    for (const std::int64_t K : {1, 2, 6, 8}) {
      if (K > E) continue;
      RouterArgs a;
      a.logits = logits.data();
      a.logits_stride = 1030;
      a.T = 3;
      a.E = E;
      a.K = K;
      a.routed_scaling_factor = 16;
      for (const Isa isa : SupportedIsas()) {
        const Result got = Call(isa, a);
        for (std::int64_t t = 0; t < 3; ++t) CheckRow(a, t, got, "E " + std::to_string(E));
      }
    }
  }
}

TEST(Router, TheLowerIndexWinsTies) {
  const std::vector<float> equal(256, 0.5F);
  const std::vector<float> zeros(256, 0.0F);
  for (const Isa isa : SupportedIsas()) {
    for (const TopkMethod method :
         {TopkMethod::kGreedy, TopkMethod::kGroupLimitedGreedy, TopkMethod::kNoauxTc}) {
      RouterArgs a = V3(equal, zeros);
      a.method = method;
      EXPECT_EQ(Call(isa, a).ids, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
    }
  }
}

// Few distinct logits: ties between experts and between groups everywhere.
TEST(Router, TiesEqualAnIndependentFormula) {
  Random random(7);
  std::vector<float> logits(256 * 60);
  for (float& v : logits) v = static_cast<float>(random.Integer(-1, 1));
  const std::vector<float> bias(256, 0.25F);
  for (const Isa isa : SupportedIsas()) {
    for (const TopkMethod method :
         {TopkMethod::kGreedy, TopkMethod::kGroupLimitedGreedy, TopkMethod::kNoauxTc}) {
      RouterArgs a = V3(logits, bias);
      a.method = method;
      const Result got = Call(isa, a);
      for (std::int64_t t = 0; t < a.T; ++t) CheckRow(a, t, got, std::string(Name(isa)));
    }
  }
}

TEST(Router, DroppedGroupsLoseEvenToNegativeSelectionScores) {
  std::vector<float> logits(256, 0.0F);
  std::vector<float> bias(256, -3.0F);  // every kept score is negative: 0 for dropped would win
  for (int e = 0; e < 128; ++e) logits[static_cast<std::size_t>(e)] = 1.0F;
  for (const Isa isa : SupportedIsas()) {
    const Result got = Call(isa, V3(logits, bias));
    EXPECT_EQ(got.ids, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7})) << Name(isa);
  }
}

TEST(Router, TheBiasSelectsButDoesNotWeigh) {
  std::vector<float> logits(256, 0.0F);
  std::vector<float> bias(256, 0.0F);
  for (int e = 100; e < 108; ++e)
    bias[static_cast<std::size_t>(e)] = 5.0F - 0.1F * static_cast<float>(e);
  logits[100] = 2.0F;
  for (const Isa isa : SupportedIsas()) {
    RouterArgs a = V3(logits, bias);
    a.norm_topk_prob = false;
    const Result got = Call(isa, a);
    for (std::int64_t t = 0; t < a.T; ++t) CheckRow(a, t, got, std::string(Name(isa)));
    EXPECT_FLOAT_EQ(got.weights[0], 2.5F / (1 + std::exp(got.ids[0] == 100 ? -2.0F : 0.0F)));
  }
}

}  // namespace
}  // namespace tandem::cpu
