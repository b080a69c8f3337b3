// ctest: opencl
// Matrices above a device's largest buffer lie in several, and nothing else changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "cl_kernels/device_traits.h"
#include "model/open_model.h"
#include "placement/attention_scratch.h"
#include "placement/device_parts.h"
#include "placement/planner.h"
#include "placement/scratch.h"
#include "runtime/abilities.h"
#include "runtime/engine.h"
#include "runtime/weight_layout.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;

constexpr std::uint64_t kMost = std::uint64_t{100} << 10;

std::uint64_t WeightBytes(const Plan& plan) {
  std::uint64_t bytes = 0;
  for (const PlanItem& item : plan.items) {
    const bool weights = item.what != "KV cache" && item.what != "scratch";
    if (item.place.on_device() && weights) bytes += item.bytes;
  }
  return bytes;
}

class SplitBuffers : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
    profile_.context = 256;
    profile_.chunk = 8;
  }

  // On a device whose largest buffer the plan knows to be so large; 0: as it is.
  Engine Make(std::uint64_t most, Precision precision = Precision::kExact,
              const std::string& folder = DemoDir()) const {
    Model model = OpenModel(folder);
    Machine machine = ReadMachine(ProbeDevices::kYes);
    if (most > 0) machine.devices[0].max_alloc_bytes = most;
    Plan plan = MakePlan(model.config, model.tensors, machine, profile_,
                         {.precision = precision, .statistics = nullptr, .abilities = kAbilities});
    return Engine(std::move(model), std::move(plan));
  }

  std::vector<float> Logits(Engine& engine) const {
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 20; ++i) ids.push_back((i * 919 + 13) % 2048);
    const std::int32_t s = engine.NewSequence();
    std::vector<float> logits = Prefill(engine, s, ids, profile_.chunk.value());
    for (int i = 0; i < 3; ++i) {  // and one row a step
      const std::int32_t id = ArgMax({logits.data() + logits.size() - 2048, 2048});
      const Row row{s, static_cast<std::int32_t>(engine.Length(s)), id, true};
      const auto out = engine.Step({&row, 1});
      logits.insert(logits.end(), out.begin(), out.end());
    }
    return logits;
  }

  Profile profile_ = Placement("device");
};

// All but attention, whose partial results take 2 MiB in one buffer however small the step is: the
// head of 1 MiB and the dense MLP's matrices of 128 KiB are above the largest buffer.
TEST_F(SplitBuffers, APlanForSmallBuffersGivesTheSameLogits) {
  profile_.attention = profile_.router = Side::kHost;
  profile_.experts_share = 0;
  Engine whole = Make(0);
  Engine split = Make(kMost);
  EXPECT_TRUE(split.plan().head.on_device());
  EXPECT_TRUE(split.plan().layers[0].dense.on_device());
  EXPECT_EQ(split.bytes().devices[0].weights, WeightBytes(split.plan()));
  const Difference worst = WorstDifference(Logits(split), Logits(whole));
  // A GPU's kernels choose by the rows of a product how its sums are shared out.
  const float tolerance = whole.plan().devices[0].shares_cores ? 0 : 3e-5F;
  EXPECT_LE(worst.difference, tolerance) << worst;
}

// Attention with it: what only the loading needs to know. Experts in several buffers take a launch
// for every two of them, so that their sums are rounded in another order, and the logits, of size
// 14, with them.
TEST_F(SplitBuffers, AllOnTheDeviceGivesNearlyTheSame) {
  Engine whole = Make(0);
  Model model = OpenModel(DemoDir());
  Plan plan = whole.plan();
  plan.devices[0].max_alloc_bytes = kMost;
  Engine split(std::move(model), std::move(plan));
  const Difference worst = WorstDifference(Logits(split), Logits(whole));
  EXPECT_LE(worst.difference, 3e-5F) << worst;
}

// Tokens of two sequences, one forked off the other, whose KV cache lies in buffers of five blocks.
std::vector<float> OfTwoSequences(Engine& engine, std::int64_t chunk, std::int32_t words = 2048) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 420; ++i) ids.push_back((i * 919 + 13) % words);
  const std::int32_t a = engine.NewSequence();
  std::vector<float> logits = Prefill(engine, a, ids, chunk);
  // In the fifth block, the last of its buffer, which is copied to another one.
  const std::int32_t b = engine.Fork(a, 310);
  for (std::int32_t i = 0; i < 40; ++i) {
    const Row rows[] = {{a, 420 + i, (i * 17) % words, true}, {b, 310 + i, (i * 31) % words, true}};
    const auto out = engine.Step(rows);
    logits.insert(logits.end(), out.begin(), out.end());
  }
  return logits;
}

// Partial results of runs in several buffers are merged, in another order than those in one.
TEST_F(SplitBuffers, TheKvCacheOfALayerMayLieInSeveral) {
  profile_.context = 1024;
  profile_.chunk = 64;
  Engine whole = Make(0);
  Plan plan = whole.plan();
  plan.devices[0].max_alloc_bytes = kMost;
  const KvBuffers buffers = KvBuffersOf(whole.config(), plan);
  EXPECT_EQ(buffers.count, 4);
  EXPECT_EQ(buffers.blocks, 5);
  Model model = OpenModel(DemoDir());
  Engine split(std::move(model), std::move(plan));
  EXPECT_EQ(split.bytes().devices[0].kv, whole.bytes().devices[0].kv);
  const Difference worst = WorstDifference(OfTwoSequences(split, 64), OfTwoSequences(whole, 64));
  EXPECT_LE(worst.difference, 1e-4F) << worst;
}

// Rows with a logit that differs by more than 0.1.
std::int64_t RowsApart(std::span<const float> a, std::span<const float> b, std::int64_t rows) {
  const std::size_t width = b.size() / static_cast<std::size_t>(rows);
  std::int64_t apart = 0;
  for (std::size_t at = 0; at < b.size(); at += width) {
    apart += WorstDifference(a.subspan(at, width), b.subspan(at, width)).difference > 0.1F ? 1 : 0;
  }
  return apart;
}

// Chunks in the expanded form: the first two of a sequence have their keys in one buffer, the third
// has not and is absorbed; those of another sequence lie in a later buffer.
TEST_F(SplitBuffers, TheExpandedFormReadsItsKeysInTheirBuffer) {
  constexpr std::int64_t kChunk = 128;
  profile_.context = 1024;
  profile_.chunk = kChunk;
  Engine whole = Make(0, Precision::kFast);
  ASSERT_TRUE(whole.plan().bf16_many_rows);
  ASSERT_GE(kChunk, LeastExpandedRows(whole.config()));
  Plan plan = whole.plan();
  plan.devices[0].max_alloc_bytes = kMost / 2;  // five blocks in f16
  ASSERT_EQ(KvBuffersOf(whole.config(), plan).count, 4);
  Model model = OpenModel(DemoDir());
  Engine split(std::move(model), std::move(plan));
  const auto logits = [&](Engine& engine) {
    std::vector<float> all = OfTwoSequences(engine, kChunk);
    std::vector<std::int32_t> ids(kChunk + 60);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 37 % 2048);
    const std::int32_t s = engine.NewSequence();
    const auto third = Prefill(engine, s, ids, kChunk);
    all.insert(all.end(), third.begin(), third.end());
    return all;
  };
  const std::vector<float> of_split = logits(split);
  const std::vector<float> of_whole = logits(whole);
  const auto rows = static_cast<std::int64_t>(of_whole.size()) / whole.config().vocab_size;
  // Where x is rounded to bf16, sums in another order may choose another expert in a row.
  const bool rounds = cl::TraitsOf(ClDevice(ProbeClDevices().devices.front())).nv_compute >= 80;
  EXPECT_LE(RowsApart(of_split, of_whole, rows), rounds ? rows / 50 : 0)
      << "of " << rows << ", " << WorstDifference(of_split, of_whole);
}

// Heads of their own: outputs and the log-sum-exp of keys in one buffer are merged with those of
// the next. Blocks of 64 KiB, three to a buffer.
TEST_F(SplitBuffers, SoMayOneOfKeysAndValues) {
  const std::string folder = GoldenDir("deepseek");
  profile_.context = 1024;
  profile_.chunk = 64;
  Engine whole = Make(0, Precision::kExact, folder);
  ASSERT_EQ(whole.config().attention, AttentionKind::kMha);
  Engine split = Make(std::uint64_t{200} << 10, Precision::kExact, folder);
  EXPECT_EQ(KvBuffersOf(split.config(), split.plan()).count, 7);
  for (const LayerPlan& layer : split.plan().layers) EXPECT_TRUE(layer.attention.on_device());
  EXPECT_EQ(split.plan().max_rows, profile_.chunk);
  EXPECT_EQ(split.bytes().devices[0].all(), split.plan().DeviceBytes(0));
  const Difference worst =
      WorstDifference(OfTwoSequences(split, 64, 384), OfTwoSequences(whole, 64, 384));
  EXPECT_LE(worst.difference, 1e-4F) << worst;
}

// Partial results of 8,448 rows of 64 values and of 16 more: attention takes fewer rows at a time
// than a step has, and the step fewer than the profile allows.
TEST_F(SplitBuffers, StepsFitIntoSmallBuffers) {
  profile_.context = 1024;
  profile_.chunk = 512;
  Engine whole = Make(0);
  Engine split = Make(2200000);
  const Plan& plan = split.plan();
  for (const LayerPlan& layer : plan.layers) EXPECT_TRUE(layer.attention.on_device());
  EXPECT_EQ(plan.max_rows, 256);  // 512 rows of 5 experts' outputs take 2.5 MiB
  EXPECT_LT(DeviceMlaRows(split.config(), plan), 32);
  EXPECT_THAT(plan.notes, Contains(AllOf(HasSubstr("256 rows"), HasSubstr("workload.chunk"),
                                         HasSubstr("one of 512"), HasSubstr("2.10 MiB"))));
  EXPECT_EQ(split.bytes().devices[0].all(), plan.DeviceBytes(0));
  const Difference worst = WorstDifference(OfTwoSequences(split, 256), OfTwoSequences(whole, 256));
  EXPECT_LE(worst.difference, 1e-4F) << worst;
}

// An expert lies in one buffer: where that is too small it stays on the host, the plan says so, and
// the CPU computes it.
TEST_F(SplitBuffers, ExpertsAboveTheLargestBufferRunOnTheHost) {
  profile_ = {};
  profile_.context = 256;
  profile_.chunk = 8;
  profile_.attention = profile_.router = profile_.dense = profile_.head = Side::kHost;
  profile_.shared_experts = Side::kDevice;
  Engine whole = Make(0);
  Engine split = Make(std::uint64_t{40} << 10);  // an expert takes 48 KiB, the shared one in parts
  EXPECT_TRUE(split.plan().layers[1].shared.on_device());
  for (const LayerPlan& layer : split.plan().layers) {
    for (const Place place : layer.experts) EXPECT_FALSE(place.on_device());
  }
  EXPECT_THAT(split.plan().notes, Contains(AllOf(HasSubstr("routed experts stay on the host"),
                                                 HasSubstr("one buffer"), HasSubstr("40.00 KiB"))));
  const Difference worst = WorstDifference(Logits(split), Logits(whole));
  EXPECT_LE(worst.difference, 3e-5F) << worst;
}

// 132 blocks of 20 KiB take more than attention's largest buffer for partial results.
TEST_F(SplitBuffers, APlanCountsACacheInSeveral) {
  profile_.context = 8192;
  Engine engine = Make(2400000);
  EXPECT_EQ(KvBuffersOf(engine.config(), engine.plan()).count, 2);
  EXPECT_TRUE(engine.plan().layers[0].attention.on_device());
  EXPECT_EQ(engine.bytes().devices[0].all(), engine.plan().DeviceBytes(0));
  EXPECT_EQ(Logits(engine).size(), 23U * 2048);
}

TensorInfo Tensor(DType type, std::int64_t rows, std::int64_t cols) {
  TensorInfo t;
  t.shape = {rows, cols};
  t.dtype = type;
  t.role = Role::kDense;
  t.part = Part::kUp;
  t.has_scale = type == DType::kF8E4M3;
  t.data.bytes = DataBytes(type, rows * cols);
  if (t.has_scale) t.scale.bytes = t.scale_rows() * t.scale_cols() * sizeof(float);
  return t;
}

// Every byte of a tensor has one destination, and no part is larger than its buffer.
void CheckTasks(const std::vector<LoadTask>& tasks, const TensorInfo& t) {
  std::uint64_t data = 0, scale = 0;
  for (const LoadTask& task : tasks) {
    std::uint64_t& next = task.piece == tandem::Piece::kData ? data : scale;
    EXPECT_EQ(task.offset, next) << Name(t.dtype);
    next += task.bytes;
  }
  EXPECT_EQ(data, t.data.bytes);
  EXPECT_EQ(scale, t.scale.bytes);
}

TEST(WeightLayout, PartsFollowEachOtherInTheirBuffers) {
  for (const DType type : {DType::kBF16, DType::kF8E4M3, DType::kQ4_K, DType::kQ5_0}) {
    const TensorInfo t = Tensor(type, 700, 768);
    Matrix matrix;
    const WantedMatrix wanted[] = {{&matrix, &t}};
    const std::uint64_t most = 2 * LeastBuffer(t);
    const auto sizes = PackOnDevice(wanted, 0, most, 0, {}, nullptr);
    ASSERT_EQ(sizes.size(), 3U);  // of 256, 256 and 188 rows
    std::vector<cl_mem> buffers;
    for (std::uintptr_t i = 1; i <= sizes.size(); ++i) {
      buffers.push_back(reinterpret_cast<cl_mem>(i));  // only told apart
    }
    std::vector<LoadTask> tasks;
    EXPECT_EQ(PackOnDevice(wanted, 0, most, 0, buffers, &tasks), sizes);
    CheckTasks(tasks, t);
    std::int64_t rows = 0;
    std::size_t n = 0;
    for (const cl::Weight* part = &matrix.device; part != nullptr; part = part->next, ++n) {
      EXPECT_EQ(part->buffer, buffers[n]);
      EXPECT_LE(sizes[n], most);
      EXPECT_EQ(part->rows, n < 2 ? 256 : 188);
      rows += part->rows;
    }
    EXPECT_EQ(rows, 700);
  }
}

}  // namespace
}  // namespace tandem::test
