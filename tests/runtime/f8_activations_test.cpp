// ctest: opencl
// activations.device: f8 in the embedded model, whose weights are FP8: what it moves, what it
// leaves alone, and where it is refused or has no effect.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory/error.h"
#include "model/tokenizer.h"
#include "placement/plan_json.h"
#include "placement/planner.h"
#include "runtime/abilities.h"
#include "runtime/perplexity.h"
#include "runtime/prompt.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

using testing::HasSubstr;

const std::string kText = std::string(TANDEM_SOURCE_DIR) + "/tests/golden/shakespeare-val.txt";

Profile Rounding(bool f8, const std::string& placement = "device") {
  Profile p = Placement(placement);
  p.kv_type = DType::kF32;
  p.f8_on_devices = f8;
  return p;
}

Plan PlanOf(const Profile& profile, const std::string& dir = DemoDir(),
            Precision precision = Precision::kFast) {
  const Model model = OpenCheckpoint(dir);
  return MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kYes), profile,
                  {.precision = precision, .statistics = nullptr, .abilities = kAbilities});
}

class F8Activations : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  }
};

std::vector<std::vector<double>> Predictions(Engine& engine, const Windows& windows,
                                             LikelihoodSum& sum) {
  std::vector<std::vector<double>> all;
  Predict(engine, windows, {}, [&](std::span<const float> logits, std::int32_t target) {
    LogProbabilities(logits, all.emplace_back(logits.size()));
    sum.Add(all.back()[static_cast<std::size_t>(target)]);
  });
  return all;
}

// e4m3 has four bits: a product over K terms is wrong by some 2^-5 / sqrt(K) of its terms' size.
TEST_F(F8Activations, PredictionsMoveALittle) {
  Engine plain = MakeEngine(DemoDir(), Rounding(false), Precision::kFast);
  Engine rounding = MakeEngine(DemoDir(), Rounding(true), Precision::kFast);
  const Tokenizer tokenizer = ReadTokenizer(DemoDir(), plain.config().vocab_size);
  Windows windows = CutWindows(tokenizer.Encode(ReadText(kText)), 200, plain.config().bos_token_id);
  windows.resize(3);
  LikelihoodSum nll, rounded_nll;
  const auto p = Predictions(plain, windows, nll);
  const auto q = Predictions(rounding, windows, rounded_nll);
  DivergenceSum sum;
  for (std::size_t i = 0; i < p.size(); ++i) sum.Add(p[i], q[i]);
  const Divergence d = sum.Result();
  EXPECT_GT(d.mean, 1e-6) << "nothing was rounded";
  EXPECT_LT(d.mean, 0.02);
  EXPECT_GT(d.same_top, 0.9);
  EXPECT_NEAR(rounded_nll.Result().nll, nll.Result().nll, 0.03);
}

TEST_F(F8Activations, FewRowsStayAsTheyAre) {
  const std::vector<std::int32_t> ids = {5, 70, 900, 33, 1200, 8, 64, 2};
  std::vector<float> logits[2];
  for (const bool f8 : {false, true}) {
    Engine engine = MakeEngine(DemoDir(), Rounding(f8), Precision::kFast);
    logits[f8 ? 1 : 0] = Prefill(engine, engine.NewSequence(), ids, 8);
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST_F(F8Activations, ThePlanSaysIt) {
  const Plan plan = PlanOf(Rounding(true));
  EXPECT_THAT(ToText(plan), HasSubstr("activations.device: f8: devices round many rows"));
  EXPECT_TRUE(ParsePlan(Dump(PlanJson(plan)), "plan").f8_many_rows);
  EXPECT_FALSE(PlanOf(Rounding(false)).f8_many_rows);
}

TEST(F8ActivationsSetting, HasNoEffectWithoutADevice) {
  const Plan plan = PlanOf(Rounding(true, "none"));
  EXPECT_FALSE(plan.f8_many_rows);
  EXPECT_THAT(plan.notes, testing::Contains(HasSubstr("the plan uses no device")));
}

TEST_F(F8Activations, HasNoEffectOnOtherFormats) {
  const Plan plan = PlanOf(Rounding(true), GoldenDir("v2-lite"));
  EXPECT_FALSE(plan.f8_many_rows);
  EXPECT_THAT(plan.notes, testing::Contains(HasSubstr("no weights in F8_E4M3")));
}

std::string Refusal(const Profile& profile, Precision precision) {
  try {
    PlanOf(profile, DemoDir(), precision);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

TEST(F8ActivationsSetting, IsRefusedWhereNothingIsRounded) {
  Profile p = Rounding(true, "none");
  EXPECT_THAT(Refusal(p, Precision::kExact),
              HasSubstr("'activations.device': f8 rounds, and --precision exact does not"));
  p.activation_type = DType::kF32;
  EXPECT_THAT(Refusal(p, Precision::kFast),
              HasSubstr("'activations.device': f8 rounds, and 'activations.type': f32 does not"));
}

}  // namespace
}  // namespace tandem::test
