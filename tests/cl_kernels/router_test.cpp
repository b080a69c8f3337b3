// ctest: opencl
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

enum Method { kGreedy, kGroupLimited, kNoauxTc };  // cpu::TopkMethod

class RouterTest : public test::ClTest {
 protected:
  struct Case {
    std::int64_t T, E, K, n_group, topk_group;
    bool sigmoid = false;
    Method method = kGreedy;
    bool normalise = false;
    bool scale_normalised = true;
    float factor = 1;
    bool bias = false;
  };
  struct Chosen {
    std::vector<std::int32_t> ids;
    std::vector<float> weights;
  };

  Chosen Run(const Case& c, const std::vector<float>& logits, const std::vector<float>& bias) {
    static cl::Kernels kernels(device(), "");
    const ClBuffer logit_buffer = test::Upload(device(), logits);
    const ClBuffer bias_buffer = test::Upload(device(), bias);
    const auto count = static_cast<std::size_t>(c.T * c.K);
    const ClBuffer ids = test::Upload(device(), std::vector<std::int32_t>(count, -1));
    const ClBuffer weights = test::Upload(device(), std::vector<float>(count, -1));
    cl::RouterArgs a;
    a.logits = {logit_buffer.get(), 0};
    a.bias = {c.bias ? bias_buffer.get() : nullptr, 0};
    a.ids = {ids.get(), 0};
    a.weights = {weights.get(), 0};
    a.T = c.T;
    a.E = c.E;
    a.K = c.K;
    a.n_group = c.n_group;
    a.topk_group = c.topk_group;
    a.scoring = c.sigmoid ? 1 : 0;
    a.method = c.method;
    a.norm_topk_prob = c.normalise;
    a.scale_normalised = c.scale_normalised;
    a.routed_scaling_factor = c.factor;
    kernels.Router(a);
    return {test::Download<std::int32_t>(device(), ids, count),
            test::Download<float>(device(), weights, count)};
  }

  static std::vector<double> Scores(const Case& c, const float* logits) {
    std::vector<double> scores(logits, logits + c.E);
    const double largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& s : scores) {
      s = c.sigmoid ? 1 / (1 + std::exp(-s)) : std::exp(s - largest);
      sum += s;
    }
    if (!c.sigmoid) {
      for (double& s : scores) s /= sum;
    }
    return scores;
  }

  // Indices by falling value, the lower index first among equals.
  static std::vector<int> Order(const std::vector<double>& values) {
    std::vector<int> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return values[a] > values[b]; });
    return order;
  }

  static void DropGroups(const Case& c, std::vector<double>& keys) {
    const std::int64_t size = c.E / c.n_group;
    std::vector<double> groups;
    for (std::int64_t g = 0; g < c.n_group; ++g) {
      std::vector<double> group(keys.begin() + g * size, keys.begin() + (g + 1) * size);
      std::sort(group.rbegin(), group.rend());
      groups.push_back(c.method == kGroupLimited || size == 1 ? group[0] : group[0] + group[1]);
    }
    const std::vector<int> order = Order(groups);
    for (std::int64_t g = c.topk_group; g < c.n_group; ++g) {
      std::fill_n(keys.begin() + order[g] * size, size, -std::numeric_limits<double>::infinity());
    }
  }

  void Check(const Case& c, const std::vector<float>& logits, const std::vector<float>& bias) {
    const Chosen got = Run(c, logits, bias);
    test::Worst worst;
    for (std::int64_t t = 0; t < c.T; ++t) {
      const std::vector<double> scores = Scores(c, logits.data() + t * c.E);
      std::vector<double> keys = scores;
      for (std::int64_t e = 0; c.bias && e < c.E; ++e) keys[e] += bias[e];
      if (c.method != kGreedy) DropGroups(c, keys);
      const std::vector<int> order = Order(keys);
      double sum = 0;
      for (std::int64_t k = 0; k < c.K; ++k) sum += scores[order[k]];
      double factor = c.factor;
      if (c.normalise && !c.scale_normalised && c.K > 1) factor = 1;
      if (c.normalise) factor /= sum + 1e-20;
      for (std::int64_t k = 0; k < c.K; ++k) {
        ASSERT_EQ(got.ids[t * c.K + k], order[k]) << "row " << t << " place " << k;
        test::Reference want;
        want.Add(scores[order[k]], factor);
        // exp is off by 3 ulp (4 for full-profile exp), and its argument by |x| of them.
        worst.See(got.weights[t * c.K + k], want, 16 + test::DotFactor(c.E), t, k);
      }
    }
    EXPECT_TRUE(worst.Verdict());
  }

  // Different values at distances that rounding cannot close, in random order.
  static std::vector<float> Distinct(std::int64_t T, std::int64_t E, unsigned seed) {
    std::vector<float> logits;
    std::mt19937 random(seed);
    for (std::int64_t t = 0; t < T; ++t) {
      std::vector<float> row(static_cast<std::size_t>(E));
      for (std::int64_t e = 0; e < E; ++e) {
        row[e] =
            (static_cast<float>(e) - static_cast<float>(E) / 2) * (8.0F / static_cast<float>(E));
      }
      std::shuffle(row.begin(), row.end(), random);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  }
};

TEST_F(RouterTest, V2LiteGreedySoftmax) { Check({9, 64, 6, 1, 1}, Distinct(9, 64, 1), {0}); }

TEST_F(RouterTest, V2GroupLimited) {
  Check({9, 160, 6, 8, 3, false, kGroupLimited, false, true, 16.0F}, Distinct(9, 160, 2), {0});
}

TEST_F(RouterTest, V3SigmoidBiasGroups) {
  const std::vector<float> bias = test::RandomFloats(256, 3, 0.2F);
  Check({9, 256, 8, 8, 4, true, kNoauxTc, true, true, 2.5F, true}, Distinct(9, 256, 4), bias);
}

TEST_F(RouterTest, SmallAndLargeExtremes) {
  Check({1, 1, 1, 1, 1}, {3.0F}, {0});
  Check({2, 1024, 16, 64, 5, true, kGroupLimited}, Distinct(2, 1024, 5), {0});
  Check({3, 8, 8, 8, 8, true, kNoauxTc, true}, Distinct(3, 8, 6), {0});
  Check({3, 12, 5, 1, 1, false, kGreedy, true, false, 7.0F}, Distinct(3, 12, 6), {0});
}

TEST_F(RouterTest, TiesGoToTheLowerIndex) {
  const std::vector<float> equal(64, 0.5F);
  for (const Method method : {kGreedy, kGroupLimited, kNoauxTc}) {
    Check({1, 64, 6, 8, 2, true, method, true}, equal, {0});
  }
  std::vector<float> pairs(64);
  for (int e = 0; e < 64; ++e) pairs[e] = static_cast<float>(e / 2 % 8);
  Check({1, 64, 7, 1, 1, true}, pairs, {0});
}

// Weights with no bound on the experts that a dropped group leaves: K may reach into them.
TEST_F(RouterTest, DroppedGroupsComeLastInOrder) {
  Check({2, 16, 10, 4, 2, true, kGroupLimited}, Distinct(2, 16, 8), {0});
}

TEST_F(RouterTest, NanLogitsStillGiveDifferentExperts) {
  std::vector<float> logits(32, std::numeric_limits<float>::quiet_NaN());
  for (const Method method : {kGreedy, kGroupLimited, kNoauxTc}) {
    const Chosen got = Run({1, 32, 6, 4, 2, true, method}, logits, {0});
    EXPECT_EQ(std::set<std::int32_t>(got.ids.begin(), got.ids.end()).size(), 6);
    for (const std::int32_t id : got.ids) EXPECT_TRUE(id >= 0 && id < 32) << id;
  }
}

}  // namespace
}  // namespace tandem
