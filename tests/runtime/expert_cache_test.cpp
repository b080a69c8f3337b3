// ctest: opencl
// The run-time cache of experts: which experts it holds, when it gives up, and that nobody sees it
// in what an engine computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "memory/error.h"
#include "memory/usage.h"
#include "model/open_model.h"
#include "placement/planner.h"
#include "runtime/cache_judge.h"
#include "runtime/cache_policy.h"
#include "runtime/engine.h"
#include "tests/support/gguf_model.h"
#include "tests/support/golden.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

constexpr float kExactTolerance = 1e-3F;  // as in golden_test

void UseFor(CachePolicy& policy, const std::vector<std::size_t>& experts, int steps) {
  for (int i = 0; i < steps; ++i) {
    for (const std::size_t e : experts) policy.Use(e);
    policy.EndStep();
  }
}

TEST(CachePolicy, UsesFadeByTheSameShareInEveryStep) {
  CachePolicy policy(2, 1, {.decay = 0.5});
  UseFor(policy, {0}, 2);
  EXPECT_DOUBLE_EQ(policy.Uses(0), 0.75);  // 1/2 + 1/4
  UseFor(policy, {1}, 400);                // past the point where the weight starts anew
  EXPECT_LT(policy.Uses(0), 1e-100);
  EXPECT_NEAR(policy.Uses(1), 1.0, 1e-12);
}

TEST(CachePolicy, AFreeSlotTakesTheHottestThatIsUsedEnough) {
  CachePolicy policy(4, 2, {.decay = 1, .least = 3});
  UseFor(policy, {1}, 2);
  EXPECT_FALSE(policy.Next());
  UseFor(policy, {1, 2}, 3);
  const auto first = policy.Next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->in, 1U);
  EXPECT_FALSE(first->out);
  const auto second = policy.Next();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->in, 2U);
  EXPECT_NE(second->slot, first->slot);
  EXPECT_FALSE(policy.Next());
}

TEST(CachePolicy, ServesOnlyWhatHasArrived) {
  CachePolicy policy(2, 1, {.decay = 1, .least = 1});
  UseFor(policy, {0}, 1);
  const auto exchange = policy.Next();
  ASSERT_TRUE(exchange);
  EXPECT_FALSE(policy.SlotOf(0));
  EXPECT_FALSE(policy.ExpertIn(exchange->slot));
  policy.Arrived(*exchange);
  EXPECT_EQ(policy.SlotOf(0), exchange->slot);
  EXPECT_EQ(policy.ExpertIn(exchange->slot), 0U);
  EXPECT_THROW(policy.Arrived(*exchange), Error);
}

TEST(CachePolicy, ANewcomerMustBeClearlyHotterThanTheColdest) {
  CachePolicy policy(3, 2, {.decay = 1, .least = 1, .factor = 1.5, .least_age = 0});
  UseFor(policy, {0, 1}, 4);
  UseFor(policy, {0}, 4);
  for (int i = 0; i < 2; ++i) policy.Arrived(*policy.Next());
  UseFor(policy, {2}, 6);  // 6 uses are 1.5 times those of expert 1, and no more
  EXPECT_FALSE(policy.Next());
  UseFor(policy, {2}, 1);
  const auto exchange = policy.Next();
  ASSERT_TRUE(exchange);
  EXPECT_EQ(exchange->in, 2U);
  EXPECT_EQ(exchange->out, 1U);
  EXPECT_FALSE(policy.SlotOf(1)) << "it left when the exchange began";
  EXPECT_TRUE(policy.SlotOf(0));
}

TEST(CachePolicy, AnExpertStaysForAWhile) {
  CachePolicy policy(2, 1, {.decay = 0.5, .least = 0.5, .factor = 1.5, .least_age = 5});
  UseFor(policy, {0}, 1);
  policy.Arrived(*policy.Next());
  UseFor(policy, {1}, 4);
  EXPECT_FALSE(policy.Next());
  UseFor(policy, {1}, 1);
  EXPECT_TRUE(policy.Next());
}

using Verdict = CacheJudge::Verdict;

// The first verdict but kGoOn, and the steps until it.
std::pair<Verdict, std::int64_t> NextVerdict(CacheJudge& judge, double seconds) {
  for (std::int64_t i = 1; i <= 2 * CacheJudge::kMostPeriod; ++i) {
    const Verdict verdict = judge.Step(1, seconds);
    if (verdict != Verdict::kGoOn) return {verdict, i};
  }
  return {Verdict::kGoOn, 0};
}

TEST(CacheJudge, PausesGrowRarerWhileTheCacheWins) {
  CacheJudge judge;
  judge.Step(1, 1);
  for (std::int64_t period = CacheJudge::kFirstPeriod; period <= 1024; period *= 2) {
    EXPECT_EQ(NextVerdict(judge, 1.0), std::pair(Verdict::kPause, period));
    EXPECT_EQ(NextVerdict(judge, 1.5), std::pair(Verdict::kResume, CacheJudge::kSample + 1));
  }
}

TEST(CacheJudge, TwoLossesInARowEndIt) {
  CacheJudge judge;
  judge.Step(1, 1);
  const auto round = [&](double with, double without) {
    EXPECT_EQ(NextVerdict(judge, with).first, Verdict::kPause);
    return NextVerdict(judge, without).first;
  };
  EXPECT_EQ(round(1.1, 1.0), Verdict::kResume);
  EXPECT_EQ(round(0.9, 1.0), Verdict::kResume);
  EXPECT_EQ(round(1.01, 1.0), Verdict::kResume) << "within the margin";
  EXPECT_EQ(round(1.1, 1.0), Verdict::kResume);
  EXPECT_EQ(round(1.1, 1.0), Verdict::kOff);
  EXPECT_THAT(judge.Why(), testing::HasSubstr("1100.000 ms with it and 1000.000 ms without"));
  EXPECT_EQ(NextVerdict(judge, 1.0).first, Verdict::kGoOn) << "for good";
}

TEST(CacheJudge, ComparesOnlyStepsOfAsManyRows) {
  CacheJudge judge;
  judge.Step(1, 1);
  EXPECT_EQ(NextVerdict(judge, 1.0).first, Verdict::kPause);
  EXPECT_EQ(judge.Step(64, 1.0), Verdict::kResume);
  EXPECT_EQ(judge.Step(1, 1.0), Verdict::kGoOn);
  EXPECT_EQ(NextVerdict(judge, 1.0), std::pair(Verdict::kPause, CacheJudge::kFirstPeriod));
}

// ---- end to end

Profile WithCache(const std::string& placement, std::int64_t experts, std::uint64_t bytes) {
  Profile profile = Placement(placement);
  profile.context = 1024;
  profile.chunk = 64;
  profile.expert_cache_bytes = static_cast<std::uint64_t>(experts) * bytes;
  return profile;
}

// Bytes of a slot for a model, as a plan with a cache has them.
std::uint64_t SlotBytes(const std::string& dir) {
  const Model model = OpenModel(dir);
  const Profile profile = WithCache("attention_only", 1, std::uint64_t{64} << 20);
  return MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kYes), profile,
                  Precision::kExact)
      .cache.expert_bytes;
}

struct Answer {
  std::vector<std::int32_t> tokens;
  std::vector<float> logits;  // of the last
};

// Several prompts, so that the experts in use change.
Answer Talk(Engine& engine, int prompts, int tokens) {
  Answer answer;
  std::mt19937 random(5);
  for (int p = 0; p < prompts; ++p) {
    const std::int32_t s = engine.NewSequence();
    std::vector<std::int32_t> ids(12);
    const auto first = static_cast<std::int32_t>(random() % 1500);
    for (std::int32_t& id : ids) id = first + static_cast<std::int32_t>(random() % 40);
    std::vector<float> logits = Prefill(engine, s, ids, 64);
    const auto V = static_cast<std::size_t>(engine.config().vocab_size);
    answer.logits.assign(logits.end() - static_cast<std::ptrdiff_t>(V), logits.end());
    const auto greedy = Greedy(engine, s, answer.logits, tokens);
    answer.tokens.insert(answer.tokens.end(), greedy.begin(), greedy.end());
    engine.FreeSequence(s);
  }
  return answer;
}

class ExpertCacheTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  }
};

TEST_P(ExpertCacheTest, TheSameTokensWithAndWithoutIt) {
  const std::uint64_t slot = SlotBytes(DemoDir());
  Profile profile = WithCache(GetParam(), 5, slot);
  Engine cached = MakeEngine(DemoDir(), profile, Precision::kExact);
  EXPECT_EQ(cached.plan().cache.slots, 5);
  profile.expert_cache_bytes.reset();
  Engine plain = MakeEngine(DemoDir(), profile, Precision::kExact);
  const Answer with = Talk(cached, 6, 60);
  const Answer without = Talk(plain, 6, 60);
  EXPECT_EQ(with.tokens, without.tokens);
  const Difference worst = WorstDifference(with.logits, without.logits);
  EXPECT_LE(worst.difference, kExactTolerance) << worst;
  const Metrics& m = cached.metrics();
  EXPECT_GT(m.cache_admissions, 5);
  EXPECT_GT(m.cache_evictions, 0);
  EXPECT_GT(m.cache_hits, 0);
  EXPECT_GE(m.cache_moved_bytes, static_cast<std::uint64_t>(m.cache_admissions) * slot / 2);
  // Every pair is computed once, by one side.
  EXPECT_EQ(m.expert_rows_host + m.expert_rows_device,
            plain.metrics().expert_rows_host + plain.metrics().expert_rows_device);
  EXPECT_EQ(m.cache_pairs - m.cache_hits, m.expert_rows_host);
  EXPECT_EQ(plain.metrics().cache_pairs, 0);
  std::printf("%s: %lld of %lld pairs hit, %lld admissions, %lld evictions, off: '%s'\n",
              GetParam().c_str(), static_cast<long long>(m.cache_hits),
              static_cast<long long>(m.cache_pairs), static_cast<long long>(m.cache_admissions),
              static_cast<long long>(m.cache_evictions), m.cache_off.c_str());
}

INSTANTIATE_TEST_SUITE_P(Placements, ExpertCacheTest,
                         testing::Values("half", "attention_only", "router_on_host",
                                         "experts_only"),
                         [](const auto& placement) { return placement.param; });

// Block formats travel in panels and are split on the device.
TEST(ExpertCache, TheSameTokensInABlockFormat) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const TempFolder folder;
  const GgufBuilder gguf = GgufOf(OpenCheckpoint(DemoDir()), {.format = DType::kQ8_0});
  const std::string file = folder.Write("model.gguf", gguf.Build()).string();
  Profile profile = WithCache("attention_only", 5, SlotBytes(file));
  profile.router = Side::kDevice;
  Engine cached = MakeEngine(file, profile, Precision::kExact);
  profile.expert_cache_bytes.reset();
  Engine plain = MakeEngine(file, profile, Precision::kExact);
  EXPECT_EQ(Talk(cached, 3, 40).tokens, Talk(plain, 3, 40).tokens);
  EXPECT_GT(cached.metrics().cache_hits, 0);
}

TEST(ExpertCache, EveryBufferIsPlanned) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const Profile profile = WithCache("half", 3, SlotBytes(DemoDir()));
  const std::uint64_t host_before = HostBufferBytes();
  Engine engine = MakeEngine(DemoDir(), profile, Precision::kFast);
  const EngineBytes real = engine.bytes();
  const std::uint64_t host = HostBufferBytes() - host_before;
  EXPECT_EQ(host, real.host_weights + real.host_kv + real.host_scratch);
  const std::uint64_t device = DeviceBufferBytes(engine.plan().devices[0].index);
  EXPECT_EQ(device, real.devices[0].all());
  EXPECT_EQ(device, engine.plan().DeviceBytes(0));
  Talk(engine, 2, 30);
  EXPECT_GT(engine.metrics().cache_admissions, 0);
  EXPECT_EQ(HostBufferBytes() - host_before, host) << "a step allocated";
  EXPECT_EQ(DeviceBufferBytes(engine.plan().devices[0].index), device);
}

TEST(ExpertCache, GoesOverToOtherPlans) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const Model model = OpenCheckpoint(DemoDir());
  const auto plan_of = [&](const Profile& profile) {
    return MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kYes), profile,
                    Precision::kExact);
  };
  const std::uint64_t slot = SlotBytes(DemoDir());
  const Plan with = plan_of(WithCache("half", 3, slot));
  const Plan other = plan_of(WithCache("attention_only", 6, slot));
  Profile profile = WithCache("half", 3, slot);
  profile.expert_cache_bytes.reset();
  const Plan without = plan_of(profile);
  Engine engine(OpenCheckpoint(DemoDir()), with);
  const std::vector<std::int32_t> expected = Talk(engine, 2, 40).tokens;
  for (const Plan* plan : {&without, &other, &with}) {
    engine.Apply(*plan);
    EXPECT_EQ(Talk(engine, 2, 40).tokens, expected);
    EXPECT_EQ(engine.metrics().cache_admissions > 0, plan->cache.slots > 0);
  }
  EXPECT_EQ(ParsePlan(ToJson(other), "plan.json").cache.slots, other.cache.slots);
  EXPECT_THAT(ToText(other), testing::HasSubstr("Expert cache on "));
}

template <class E>
std::string Problem(const Profile& profile) {
  const Model model = OpenCheckpoint(DemoDir());
  try {
    MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kYes), profile,
             Precision::kExact);
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}

TEST(ExpertCache, SaysWhatItLacks) {
  Profile none = Placement("none");
  none.expert_cache_bytes = std::uint64_t{1} << 30;
  EXPECT_THAT(Problem<ConfigError>(none),
              testing::HasSubstr("'placement.expert_cache' asks for a device"));
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  Profile small = Placement("half");
  small.expert_cache_bytes = 100;
  EXPECT_THAT(Problem<ConfigError>(small), testing::HasSubstr("do not hold one expert of"));
  Profile large = Placement("half");
  large.device_memory_bytes = std::uint64_t{8} << 20;
  large.expert_cache_bytes = std::uint64_t{1} << 30;
  EXPECT_NE(Problem<Error>(large), "no error");
}

}  // namespace
}  // namespace tandem::test
