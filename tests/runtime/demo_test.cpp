// ctest: opencl
// The embedded model: it was really trained, so its numbers mean something.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "model/safetensors.h"
#include "model/tokenizer.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

constexpr std::int64_t kWindow = 512;
constexpr int kWindows = 16;

nlohmann::json GoldenJson() {
  std::ifstream file(DemoDir() + "/golden.json");
  return nlohmann::json::parse(file);
}

std::vector<std::int32_t> ValidationIds(const Config& config) {
  std::ifstream file(std::string(TANDEM_SOURCE_DIR) + "/tests/golden/shakespeare-val.txt");
  std::stringstream text;
  text << file.rdbuf();
  return ReadTokenizer(DemoDir(), config.vocab_size).Encode(text.str());
}

double Nll(std::span<const float> logits, std::int32_t target) {
  double highest = -INFINITY;
  for (float x : logits) highest = std::max<double>(highest, x);
  double sum = 0;
  for (float x : logits) sum += std::exp(x - highest);
  return highest + std::log(sum) - logits[target];
}

// Mean negative log likelihood over windows of 512 tokens, each beginning with BOS.
double ValidationNll(Engine& engine, int windows) {
  const auto ids = ValidationIds(engine.config());
  const auto V = static_cast<std::size_t>(engine.config().vocab_size);
  double total = 0;
  std::int64_t n = 0;
  for (int w = 0; w < windows; ++w) {
    std::vector<std::int32_t> window{*engine.config().bos_token_id};
    window.insert(window.end(), ids.begin() + w * kWindow, ids.begin() + (w + 1) * kWindow - 1);
    const std::int32_t s = engine.NewSequence();
    const auto logits = Prefill(engine, s, window, 256);
    engine.FreeSequence(s);
    for (std::int64_t t = 0; t + 1 < kWindow; ++t, ++n) {
      total += Nll({logits.data() + t * V, V}, window[t + 1]);
    }
  }
  return total / static_cast<double>(n);
}

class DemoTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (NeedsDevice(GetParam()) && !HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  }
};

TEST_P(DemoTest, LogitsAndExpertsEqualTheReference) {
  const SafetensorsFile golden(DemoDir() + "/golden.safetensors");
  Engine engine = MakeEngine(DemoDir(), Placement(GetParam()), Precision::kExact);
  std::vector<std::int32_t> ids = golden.Ints("val_ids");
  for (const std::int64_t chunk : {256, 7}) {
    Recorder seen;
    const std::int32_t s = engine.NewSequence();
    auto logits = Prefill(engine, s, {ids.begin(), ids.begin() + 128}, chunk, &seen);
    const Difference worst = WorstDifference(logits, golden.Floats("val_logits_first128"));
    EXPECT_LE(worst.difference, 1e-3F) << worst << ", chunk " << chunk;
    for (int layer = 1; layer < 5; ++layer) {
      auto expected = golden.Ints("router." + std::to_string(layer) + ".experts");
      expected.resize(seen.experts[layer].size());
      EXPECT_EQ(SortedRows(seen.experts[layer], 4), SortedRows(expected, 4)) << "layer " << layer;
    }
    engine.FreeSequence(s);
  }
}

TEST_P(DemoTest, GreedyContinuations) {
  Engine engine = MakeEngine(DemoDir(), Placement(GetParam()), Precision::kExact);
  const nlohmann::json golden = GoldenJson();
  ASSERT_EQ(golden["prompts"].size(), 4U);
  for (const auto& prompt : golden["prompts"]) {
    const auto ids = prompt["prompt_ids"].get<std::vector<std::int32_t>>();
    const auto expected = prompt["greedy_ids"].get<std::vector<std::int32_t>>();
    const auto margins = prompt["margins"].get<std::vector<float>>();
    const std::int32_t s = engine.NewSequence();
    auto logits = Prefill(engine, s, ids, 256);
    logits.erase(logits.begin(), logits.end() - engine.config().vocab_size);
    const auto got = Greedy(engine, s, logits, static_cast<std::int64_t>(expected.size()));
    engine.FreeSequence(s);
    std::size_t i = 0;
    for (; i < expected.size() && margins[i] > 1e-2F; ++i) {
      ASSERT_EQ(got[i], expected[i]) << prompt["prompt"] << " token " << i;
    }
    EXPECT_GE(i, 14U) << "tokens compared";
  }
}

TEST_P(DemoTest, ValidationNllIsTheReferences) {
  const double expected = GoldenJson()["val_nll_8k"];
  Engine engine = MakeEngine(DemoDir(), Placement(GetParam()), Precision::kFast);
  EXPECT_NEAR(ValidationNll(engine, kWindows), expected, 0.002);
}

TEST(Demo, ValidationNllWithActivationsRoundedToBf16) {
  const double expected = GoldenJson()["val_nll_8k"];
  Profile profile = Placement("none");
  profile.activation_type = DType::kBF16;
  Engine engine = MakeEngine(DemoDir(), profile, Precision::kFast);
  EXPECT_NEAR(ValidationNll(engine, kWindows), expected, 0.002);
}

std::string NameOf(const testing::TestParamInfo<std::string>& placement) { return placement.param; }
INSTANTIATE_TEST_SUITE_P(Placements, DemoTest, testing::Values("none", "device", "half"), NameOf);

}  // namespace
}  // namespace tandem::test
