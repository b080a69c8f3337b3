// ctest: opencl
// Whole-model logits against the reference outputs, on every placement.
#include "tests/support/golden.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "placement/planner.h"

namespace tandem::test {
namespace {

constexpr float kExactTolerance = 1e-3F;
constexpr float kFastTolerance = 0.1F;
constexpr float kClearMargin = 1e-2F;

struct Case {
  std::string model;
  std::string placement;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " on " << c.placement; }

class GoldenTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (NeedsDevice(GetParam().placement) && !HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  }
  std::string dir() const { return GoldenDir(GetParam().model); }
  // Activations in f32: rounding them moves these random weights' logits by tenths (model-sized
  // sums average it out), which would hide other errors.
  Engine Make(Precision precision) const {
    Profile profile = Placement(GetParam().placement);
    profile.activation_type = DType::kF32;
    return MakeEngine(dir(), profile, precision);
  }
};

bool SameExperts(const Golden& golden, const Recorder& seen, std::size_t t, std::size_t k) {
  const auto row = [&](const std::vector<std::int32_t>& ids) {
    return SortedRows({ids.begin() + t * k, ids.begin() + (t + 1) * k}, k);
  };
  return std::all_of(golden.experts.begin(), golden.experts.end(), [&](const auto& layer) {
    return row(layer.second) == row(seen.experts.at(layer.first));
  });
}

TEST_P(GoldenTest, LogitsInOnePieceInChunksAndTokenByToken) {
  const Golden golden = ReadGolden(dir());
  ASSERT_FALSE(golden.experts.empty());
  Engine engine = Make(Precision::kExact);
  for (std::int64_t chunk : {std::int64_t{256}, std::int64_t{7}, std::int64_t{1}}) {
    const std::int32_t s = engine.NewSequence();
    Recorder seen;
    const auto logits = Prefill(engine, s, golden.prompt_ids, chunk, &seen);
    const Difference worst = WorstDifference(logits, golden.logits);
    EXPECT_LE(worst.difference, kExactTolerance) << worst << ", chunk " << chunk;
    for (const auto& [layer, ids] : golden.experts) {
      const auto k = static_cast<std::size_t>(engine.config().num_experts_per_tok);
      EXPECT_EQ(SortedRows(seen.experts[layer], k), SortedRows(ids, k)) << "layer " << layer;
    }
    for (std::size_t i = 0; i < golden.hidden.size(); ++i) {
      const Difference h = WorstDifference(seen.hidden[static_cast<int>(i)], golden.hidden[i]);
      EXPECT_LE(h.difference, kExactTolerance)
          << "hidden." << i << ": " << h << ", chunk " << chunk;
    }
    engine.FreeSequence(s);
  }
}

TEST_P(GoldenTest, GreedyTokensWhereTheMarginIsClear) {
  const Golden golden = ReadGolden(dir());
  Engine engine = Make(Precision::kExact);
  const std::int32_t s = engine.NewSequence();
  auto logits = Prefill(engine, s, golden.prompt_ids, 256);
  logits.erase(logits.begin(), logits.end() - engine.config().vocab_size);
  const auto ids = Greedy(engine, s, logits, 32);
  std::size_t i = 0;
  for (; i < ids.size() && golden.greedy_margin[i] > kClearMargin; ++i) {
    ASSERT_EQ(ids[i], golden.greedy_ids[i])
        << "token " << i << ", margin " << golden.greedy_margin[i];
  }
  EXPECT_GE(i, 29U) << "tokens compared";
}

// Routing is discrete: where two experts score nearly alike, rounding the KV cache to f16 may
// choose the other one, and that row is another row from there on. So rows are compared whose
// choice agrees with the reference's in every layer; most must.
TEST_P(GoldenTest, FastStaysNear) {
  const Golden golden = ReadGolden(dir());
  Engine engine = Make(Precision::kFast);
  Recorder seen;
  const auto logits = Prefill(engine, engine.NewSequence(), golden.prompt_ids, 256, &seen);
  const auto V = static_cast<std::size_t>(engine.config().vocab_size);
  const auto k = static_cast<std::size_t>(engine.config().num_experts_per_tok);
  const std::size_t T = golden.prompt_ids.size();
  std::size_t agreeing = 0;
  for (std::size_t t = 0; t < T; ++t) {
    if (!SameExperts(golden, seen, t, k)) continue;
    ++agreeing;
    const Difference worst =
        WorstDifference({logits.data() + t * V, V}, {golden.logits.data() + t * V, V});
    EXPECT_LE(worst.difference, kFastTolerance) << worst << ", row " << t;
  }
  EXPECT_GE(agreeing, T * 95 / 100) << "of " << T << " rows";
}

TEST_P(GoldenTest, TwoSequencesTogetherGiveWhatEachGivesAlone) {
  const Golden golden = ReadGolden(dir());
  Engine engine = Make(Precision::kExact);
  const std::vector<std::int32_t> a(golden.prompt_ids.begin(), golden.prompt_ids.begin() + 40);
  const std::vector<std::int32_t> b(golden.prompt_ids.begin() + 9, golden.prompt_ids.begin() + 32);
  const auto V = engine.config().vocab_size;
  std::vector<std::vector<std::int32_t>> alone;
  for (const auto& prompt : {a, b}) {
    const std::int32_t s = engine.NewSequence();
    auto logits = Prefill(engine, s, prompt, 256);
    logits.erase(logits.begin(), logits.end() - V);
    alone.push_back(Greedy(engine, s, logits, 12));
    engine.FreeSequence(s);
  }
  const std::int32_t sa = engine.NewSequence();
  const std::int32_t sb = engine.NewSequence();
  std::vector<Row> rows;  // both prompts in one ragged step, interleaved
  for (std::size_t i = 0; i < a.size(); ++i) {
    rows.push_back({sa, static_cast<std::int32_t>(i), a[i], i + 1 == a.size()});
    if (i < b.size()) rows.push_back({sb, static_cast<std::int32_t>(i), b[i], i + 1 == b.size()});
  }
  auto out = engine.Step(rows);
  std::vector<std::vector<std::int32_t>> together(2);
  // b is the shorter one, so its logits come first.
  std::int32_t next_b = ArgMax(out.subspan(0, V));
  std::int32_t next_a = ArgMax(out.subspan(V, V));
  for (int i = 0; i < 12; ++i) {
    together[0].push_back(next_a);
    together[1].push_back(next_b);
    const Row step[] = {{sa, static_cast<std::int32_t>(engine.Length(sa)), next_a, true},
                        {sb, static_cast<std::int32_t>(engine.Length(sb)), next_b, true}};
    out = engine.Step(step);
    next_a = ArgMax(out.subspan(0, V));
    next_b = ArgMax(out.subspan(V, V));
  }
  EXPECT_EQ(together[0], alone[0]);
  EXPECT_EQ(together[1], alone[1]);
}

// A device whose largest buffer holds six experts: their weights spread over many buffers (F55).
TEST(Golden, ExpertsOverManyBuffers) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const Golden golden = ReadGolden(GoldenDir("v3"));
  Model model = OpenCheckpoint(GoldenDir("v3"));
  const Machine machine = ReadMachine(ProbeDevices::kYes);
  Profile profile = Placement("half");
  Plan plan = MakePlan(model.config, model.tensors, machine, profile, Precision::kExact);
  plan.devices[0].max_alloc_bytes = std::uint64_t{160} << 10;
  Engine engine(std::move(model), std::move(plan));
  const auto logits = Prefill(engine, engine.NewSequence(), golden.prompt_ids, 256);
  const Difference worst = WorstDifference(logits, golden.logits);
  EXPECT_LE(worst.difference, kExactTolerance) << worst;
  EXPECT_GT(engine.metrics().expert_rows_device, 0);
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const char* model : {"v2-lite", "v2", "v3", "deepseek"}) {
    for (const std::string& placement : AllPlacements()) cases.push_back({model, placement});
  }
  return cases;
}
std::string CaseName(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model + "_" + info.param.placement;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace tandem::test
