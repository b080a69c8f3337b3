// ctest: opencl
// The deferral of the CPU's sums against a model in double that does the same, and the line that
// says what it changes.
#include "placement/deferral.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "memory/error.h"
#include "placement/plan_json.h"
#include "placement/planner.h"
#include "runtime/abilities.h"
#include "tests/support/golden.h"
#include "tests/support/naive_model.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

constexpr float kTolerance = 1e-3F;  // of the golden tests
constexpr const char* kLine = "greedy tokens agree with those without it, mean KL";

// Attention, routers and half of the experts on the device, the rest and the shared ones on the
// host; nothing is rounded.
Profile Deferred(bool deferral, HandOverWay way = HandOverWay::kEvents) {
  Profile p = Placement("half");
  p.shared_experts = Side::kHost;
  p.activation_type = DType::kF32;
  p.kv_type = DType::kF32;
  p.deferral = deferral;
  p.hand_over = way;
  return p;
}

Engine Demo(const Profile& profile) { return MakeEngine(DemoDir(), profile, Precision::kFast); }

std::vector<std::int32_t> SomeIds() {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 40; ++i) ids.push_back((i * 53 + 11) % 2000);
  return ids;
}

std::vector<float> LogitsOf(Engine& engine, std::int64_t chunk, StepObserver* observer = nullptr) {
  const std::int32_t s = engine.NewSequence();
  std::vector<float> logits = Prefill(engine, s, SomeIds(), chunk, observer);
  engine.FreeSequence(s);
  return logits;
}

NaiveModel Naive(const Engine& engine) {
  NaiveModel naive(DemoDir(), engine.config());
  const Plan plan = engine.plan();
  naive.late = [plan](int layer, int expert) {
    const LayerPlan& p = plan.layers[static_cast<std::size_t>(layer)];
    const Place place = expert < 0 ? p.shared : p.experts[static_cast<std::size_t>(expert)];
    return place != Place::Device(0);
  };
  return naive;
}

class DeferralTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  }
};

TEST_F(DeferralTest, OnIsWhatAModelWithDeferralComputes) {
  Engine engine = Demo(Deferred(true));
  ASSERT_EQ(DeferredLayers(engine.config(), engine.plan()), 3);  // of layers 1 to 4, not the last
  NaiveModel naive = Naive(engine);
  const std::vector<float> without = naive.Logits(SomeIds());
  naive.defers = [](int layer) { return layer >= 1 && layer <= 3; };
  const std::vector<float> with = naive.Logits(SomeIds());
  EXPECT_GT(WorstDifference(with, without).difference, 100 * kTolerance)
      << "the test would not see deferral";
  for (const std::int64_t chunk : {1, 5, 32}) {
    const Difference worst = WorstDifference(LogitsOf(engine, chunk), with);
    EXPECT_LE(worst.difference, kTolerance) << worst << ", chunk " << chunk;
  }
  // Longer steps do not defer.
  const Difference worst = WorstDifference(LogitsOf(engine, 40), without);
  EXPECT_LE(worst.difference, kTolerance) << worst;
}

TEST_F(DeferralTest, OffIsTheModelItself) {
  Engine engine = Demo(Deferred(false));
  EXPECT_EQ(engine.deferral(), nullptr);
  const std::vector<float> naive = Naive(engine).Logits(SomeIds());
  for (const std::int64_t chunk : {1, 5, 40}) {
    const std::vector<float> logits = LogitsOf(engine, chunk);
    const Difference worst = WorstDifference(logits, naive);
    EXPECT_LE(worst.difference, kTolerance) << worst << ", chunk " << chunk;
    // With an observer layers are enqueued one after another, and no norm is a part of the head's
    // product, which rounds otherwise on some devices.
    Recorder recorder;
    const Difference seen = WorstDifference(LogitsOf(engine, chunk, &recorder), logits);
    EXPECT_LE(seen.difference, kTolerance) << seen << ", chunk " << chunk;
  }
}

TEST_F(DeferralTest, PolledAndEventsGiveTheSameBits) {
  Engine events = Demo(Deferred(true));
  const std::vector<float> one = LogitsOf(events, 1);
  const std::vector<float> eight = LogitsOf(events, 8);
  EXPECT_EQ(LogitsOf(events, 1), one);
  try {
    Engine polled = Demo(Deferred(true, HandOverWay::kPolled));
    EXPECT_EQ(LogitsOf(polled, 1), one);
    EXPECT_EQ(LogitsOf(polled, 8), eight);
  } catch (const OpenClError& e) {
    GTEST_SKIP() << e.what();
  }
}

TEST_F(DeferralTest, LoadingSaysWhatItChangesAndLeavesNothingBehind) {
  Profile profile = Deferred(true);
  profile.expert_cache_bytes = std::uint64_t{1} << 20;
  testing::internal::CaptureStderr();
  Engine engine = Demo(profile);
  const std::string said = testing::internal::GetCapturedStderr();
  ASSERT_NE(engine.deferral(), nullptr);
  const DeferralEffect effect = *engine.deferral();
  EXPECT_NE(said.find(kLine), std::string::npos) << said;
  EXPECT_NE(said.find(ToText(effect)), std::string::npos) << said;
  EXPECT_EQ(effect.tokens, 32);
  EXPECT_LE(effect.same, 32);
  EXPECT_GT(effect.largest, 0);
  EXPECT_GT(effect.divergence, 0);
  EXPECT_EQ(engine.FreeTokens(), engine.plan().kv_blocks * 64);
  const Metrics& m = engine.metrics();
  EXPECT_EQ(m.cache_pairs, 0);
  EXPECT_EQ(m.cache_admissions, 0);
  EXPECT_EQ(m.expert_rows_host, 0);
}

TEST_F(DeferralTest, APlanTakenLaterIsMeasuredToo) {
  Profile without = Deferred(false), with = Deferred(true);
  // An open device keeps its threads: as many in both plans, however many cores there are.
  for (Profile* p : {&without, &with}) p->threads = p->device_threads = 1;
  Engine engine = Demo(without);
  const Model model = engine.model();
  const Plan on =
      MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kYes), with,
               {.precision = Precision::kFast, .statistics = nullptr, .abilities = kAbilities});
  const Plan off = engine.plan();
  testing::internal::CaptureStderr();
  engine.Apply(on);
  EXPECT_NE(testing::internal::GetCapturedStderr().find(kLine), std::string::npos);
  EXPECT_NE(engine.deferral(), nullptr);
  engine.Apply(off);
  EXPECT_EQ(engine.deferral(), nullptr);
}

Plan PlanOf(const Profile& profile, Precision precision) {
  const Model model = OpenCheckpoint(DemoDir());
  return MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kYes), profile,
                  {.precision = precision, .statistics = nullptr, .abilities = kAbilities});
}

TEST_F(DeferralTest, ThePlanSaysIt) {
  const Plan plan = PlanOf(Deferred(true), Precision::kFast);
  EXPECT_NE(ToText(plan).find("deferral: in steps of up to 32 rows"), std::string::npos);
  EXPECT_TRUE(ParsePlan(Dump(PlanJson(plan)), "plan").deferral);
  EXPECT_FALSE(PlanOf(Deferred(false), Precision::kFast).deferral);
}

TEST_F(DeferralTest, ExactRunsRefuseIt) {
  try {
    PlanOf(Deferred(true), Precision::kExact);
    FAIL() << "nothing was thrown";
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("'deferral': on changes results"), std::string::npos)
        << e.what();
  }
}

TEST(Deferral, WhereNothingHandsOverItSaysSo) {
  Profile profile = Placement("none");
  profile.deferral = true;
  const Plan plan = PlanOf(profile, Precision::kFast);
  EXPECT_FALSE(plan.deferral);
  ASSERT_FALSE(plan.notes.empty());
  EXPECT_NE(plan.notes.back().find("deferral: on has no effect"), std::string::npos);
}

TEST_F(DeferralTest, TheProgramPrintsTheLineEvenWhenQuiet) {
  const TempFolder folder;
  const std::string at = folder.path().string();
  const std::string place =
      " --model " + DemoDir() +
      " --device 0 --threads 2 --ctx 512 --deferral on --placement-attention device "
      "--placement-routed-experts '{share: 0.5}' --quiet ";
  const auto tandem = [&](const std::string& words) {
    return std::system((TANDEM_BINARY " " + words + " >" + at + "/out 2>" + at + "/err").c_str());
  };
  ASSERT_EQ(tandem("run" + place + "--prompt 'To be' --max-tokens 3 --temperature 0"), 0)
      << ReadText(folder / "err");
  EXPECT_NE(ReadText(folder / "err").find(kLine), std::string::npos) << ReadText(folder / "err");
  ASSERT_EQ(tandem("bench" + place +
                   "--prompt-tokens 8 --gen-tokens 4 --repetitions 1 --sequences 1 --output json"),
            0)
      << ReadText(folder / "err");
  EXPECT_NE(ReadText(folder / "err").find(kLine), std::string::npos);
  const auto json = nlohmann::json::parse(ReadText(folder / "out"));
  EXPECT_EQ(json["deferral"]["tokens"], 32);
  EXPECT_GT(json["deferral"]["mean_kl_divergence"], 0);
}

}  // namespace
}  // namespace tandem::test
