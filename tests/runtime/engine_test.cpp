// ctest: unit
// The engine's contract on the CPU alone: sequences, forks, refusals, nodes, precision.
#include "runtime/engine.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "memory/error.h"
#include "placement/planner.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

Engine DemoEngine(Precision precision = Precision::kExact) {
  return MakeEngine(DemoDir(), Placement("none"), precision);
}

std::vector<std::int32_t> SomeIds(std::size_t n) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>((i * 37 + 5) % 2000));
  return ids;
}

std::vector<float> LastRow(const std::vector<float>& logits, std::int64_t V) {
  return {logits.end() - V, logits.end()};
}

TEST(Engine, AForkContinuesAsAFreshSequenceWould) {
  Engine engine = DemoEngine();
  const auto V = engine.config().vocab_size;
  const auto ids = SomeIds(150);
  const std::int32_t a = engine.NewSequence();
  Prefill(engine, a, ids, 256);
  for (std::int64_t cut : {64, 100, 128, 149}) {
    const std::int32_t b = engine.Fork(a, cut);
    std::vector<Row> rows;
    for (std::int64_t i = cut; i < 150; ++i) {
      rows.push_back({b, static_cast<std::int32_t>(i), ids[i], i == 149});
    }
    const auto out = engine.Step(rows);
    const std::vector<float> forked(out.begin(), out.end());  // the next step overwrites it
    const std::int32_t fresh = engine.NewSequence();
    EXPECT_EQ(forked, LastRow(Prefill(engine, fresh, ids, 256), V)) << "cut at " << cut;
    engine.FreeSequence(b);
    engine.FreeSequence(fresh);
  }
  // The original was not disturbed by writes of its forks.
  const Row next{a, 150, 7, true};
  const auto out = engine.Step({&next, 1});
  auto longer = ids;
  longer.push_back(7);
  const std::vector<float> got(out.begin(), out.end());
  const auto expected = LastRow(Prefill(engine, engine.NewSequence(), longer, 256), V);
  EXPECT_EQ(got, expected);
}

TEST(Engine, TruncateForgets) {
  Engine engine = DemoEngine();
  const auto V = engine.config().vocab_size;
  const auto ids = SomeIds(90);
  const std::int32_t a = engine.NewSequence();
  const auto first = LastRow(Prefill(engine, a, ids, 256), V);
  engine.Truncate(a, 70);
  EXPECT_EQ(engine.Length(a), 70);
  std::vector<Row> rows;
  for (std::int32_t i = 70; i < 90; ++i) rows.push_back({a, i, ids[i], i == 89});
  const auto again = engine.Step(rows);
  EXPECT_EQ(first, std::vector<float>(again.begin(), again.end()));
}

TEST(Engine, RefusesBadStepsAndChangesNothing) {
  Engine engine = DemoEngine();
  const std::int32_t s = engine.NewSequence();
  Prefill(engine, s, SomeIds(10), 256);
  const std::int64_t free = engine.FreeTokens();
  const std::vector<std::vector<Row>> bad = {
      {},                      // empty
      {{s + 50, 0, 1, true}},  // unknown sequence
      {{s, 11, 1, true}},      // a gap
      {{s, 9, 1, true}},       // a position again
      {{s, 10, -1, true}},     // token ids out of range
      {{s, 10, 2048, true}},
      {{s, 10, 1, true}, {s, 12, 1, true}},  // the second row is wrong
      std::vector<Row>(engine.plan().max_rows + 1, Row{s, 10, 1, false}),
  };
  for (const auto& rows : bad) {
    EXPECT_THROW(engine.Step(rows), UsageError) << rows.size() << " rows";
    EXPECT_EQ(engine.Length(s), 10);
    EXPECT_EQ(engine.FreeTokens(), free);
  }
}

TEST(Engine, AFullCacheIsRefusedWithItsNumbers) {
  Profile p = Placement("none");
  p.context = 64;
  p.max_sequences = 1;
  Engine engine = MakeEngine(DemoDir(), p, Precision::kExact);
  const std::int32_t s = engine.NewSequence();
  const std::int64_t room = engine.FreeTokens();
  std::vector<Row> rows;
  const std::int64_t chunk = engine.plan().max_rows;
  for (std::int64_t i = 0; i < room; ++i) {
    rows.push_back({s, static_cast<std::int32_t>(i), 3, false});
    if (static_cast<std::int64_t>(rows.size()) < std::min(chunk, room)) continue;
    engine.Step(rows);
    rows.clear();
  }
  if (!rows.empty()) engine.Step(rows);
  const Row more{s, static_cast<std::int32_t>(engine.Length(s)), 3, true};
  try {
    engine.Step({&more, 1});
    FAIL() << "a step beyond the cache was accepted";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("KV cache is full"), std::string::npos) << e.what();
  }
}

// Rows of a matrix lie whole on one node: the bits do not depend on how many nodes there are.
TEST(Engine, AnyNumberOfNodesGivesTheSameBits) {
  const Machine real = ReadMachine(ProbeDevices::kNo);
  std::vector<float> expected;
  for (int n = 1; n <= 3; ++n) {
    Machine machine = real;
    Node node = real.nodes[0];
    node.cores.resize(1);
    machine.nodes.assign(n, node);
    Profile profile = Placement("none");
    profile.threads.reset();
    Model model = OpenCheckpoint(DemoDir());
    Plan plan = MakePlan(model.config, model.tensors, machine, profile, Precision::kExact);
    ASSERT_EQ(plan.nodes.size(), static_cast<std::size_t>(n));
    Engine engine(std::move(model), std::move(plan));
    const auto logits = Prefill(engine, engine.NewSequence(), SomeIds(40), 256);
    if (n == 1) expected = logits;
    EXPECT_EQ(logits, expected) << n << " nodes";
  }
}

TEST(Engine, AnySharesOfTheNodesGiveTheSameBits) {
  const std::vector<std::vector<double>> cuts = {
      {1.0}, {0.9, 0.1}, {0.3, 0.7}, {0.5, 0.25, 0.25}, {0.01, 0.01, 0.98}};
  const Machine real = ReadMachine(ProbeDevices::kNo);
  std::vector<float> expected;
  for (const std::vector<double>& shares : cuts) {
    Machine machine = real;
    Node node = real.nodes[0];
    node.cores.resize(1);
    machine.nodes.assign(shares.size(), node);
    Profile profile = Placement("none");
    profile.threads.reset();
    Model model = OpenCheckpoint(DemoDir());
    Plan plan = MakePlan(model.config, model.tensors, machine, profile, Precision::kExact);
    for (std::size_t i = 0; i < shares.size(); ++i) plan.nodes[i].share = shares[i];
    Engine engine(std::move(model), std::move(plan));
    const auto logits = Prefill(engine, engine.NewSequence(), SomeIds(40), 256);
    if (expected.empty()) expected = logits;
    EXPECT_EQ(logits, expected) << shares.size() << " nodes, the first holds " << shares[0];
  }
}

// A row's sums have one fixed order: neither the other rows of a step nor the chunk change a bit,
// unless the run may take other kernels and the expanded form of attention for many rows.
TEST(Engine, ChunksDoNotChangeABit) {
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    Profile profile = Placement("none");
    profile.activation_type = DType::kF32;
    Engine engine = MakeEngine(DemoDir(), profile, precision);
    const auto ids = SomeIds(130);
    const auto whole = Prefill(engine, engine.NewSequence(), ids, 256);
    for (const std::int64_t chunk : {1, 5, 17, 64}) {
      const std::int32_t s = engine.NewSequence();
      EXPECT_EQ(Prefill(engine, s, ids, chunk), whole) << "chunk " << chunk;
      engine.FreeSequence(s);
    }
  }
}

TEST(Engine, MetricsCountWhatRan) {
  Engine engine = DemoEngine();
  Prefill(engine, engine.NewSequence(), SomeIds(20), 10);
  const Metrics& m = engine.metrics();
  EXPECT_EQ(m.steps, 2);
  EXPECT_EQ(m.rows, 20);
  EXPECT_EQ(m.expert_rows_host, 20 * 4 * 4);  // 4 MoE layers, 4 experts each
  EXPECT_EQ(m.expert_rows_device, 0);
  EXPECT_GT(m.host_weight_bytes, 0U);
  EXPECT_GT(m.loaded_bytes, 9'000'000U);
  engine.ResetMetrics();
  EXPECT_EQ(engine.metrics().rows, 0);
}

// One row reads what it needs once, wherever that is.
TEST(Engine, WeightsThatARowReadsAreCountedOnEverySide) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const auto read = [](const std::string& placement) {
    Engine engine = MakeEngine(DemoDir(), Placement(placement), Precision::kExact);
    const Row row{engine.NewSequence(), 0, 17, true};
    engine.ResetMetrics();
    engine.StepGreedy({&row, 1});
    return engine.metrics().host_weight_bytes + engine.metrics().device_weight_bytes;
  };
  const std::uint64_t on_host = read("none");
  for (const char* placement : {"device", "half", "experts_only", "router_on_host"}) {
    EXPECT_EQ(read(placement), on_host) << placement;
  }
}

}  // namespace
}  // namespace tandem::test
