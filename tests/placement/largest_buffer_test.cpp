// ctest: unit
// What a device's largest buffer (CL_DEVICE_MAX_MEM_ALLOC_SIZE) leaves of a plan, and what plans
// say of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "placement/attention_scratch.h"
#include "placement/planner.h"
#include "placement/scratch.h"
#include "real_shapes.h"

namespace tandem {
namespace {

using test::kGiB;
using test::kMiB;
using test::PlanTiny;
using test::V3Tensors;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

// The memory is there, and no buffer as large as one must be: another message, other settings.
TEST(LargestBuffer, BuffersCanBeTooSmallWhereTheMemoryIsNot) {
  Profile profile;
  profile.chunk = 512;
  profile.device = "0";
  Machine machine = test::GpuMachine(8);
  machine.devices[0].max_alloc_bytes = 64 << 10;
  const auto refusal = [&] {
    return test::Refusal([&] { PlanTiny(machine, profile); }, ExitCode::kUnavailable);
  };
  EXPECT_THAT(refusal(), AllOf(HasSubstr("the least, "), HasSubstr("needs a buffer of "),
                               HasSubstr("largest has 64.00 KiB"), HasSubstr("workload.chunk"),
                               Not(HasSubstr("budget"))));
  profile.attention = Side::kDevice;
  EXPECT_THAT(refusal(), AllOf(HasSubstr("in one buffer, the device allows 64.00 KiB"),
                               HasSubstr("placement.attention to host"), Not(HasSubstr("1 B"))));
}

TEST(LargestBuffer, NoBufferIsLargerThanTheDeviceAllows) {
  Machine machine = test::GpuMachine(80);
  machine.devices[0].max_alloc_bytes = kGiB;  // V3's head in bf16 takes 1.73 GiB: it is cut
  Plan plan = MakePlan(test::V3(), V3Tensors(), machine, {}, Precision::kFast);
  EXPECT_TRUE(plan.head.on_device());
  EXPECT_TRUE(plan.layers[0].attention.on_device());
  // What goes through heads is not: kv_b takes 16 MiB.
  machine.devices[0].max_alloc_bytes = 15 * kMiB;
  Profile profile;
  profile.attention = Side::kDevice;
  const auto run = [&] { MakePlan(test::V3(), V3Tensors(), machine, profile, Precision::kFast); };
  EXPECT_THAT(test::Refusal(run, ExitCode::kUnavailable),
              AllOf(HasSubstr("kv_b_proj.weight"), HasSubstr("15.00 MiB"), HasSubstr("16.00 MiB"),
                    HasSubstr("placement.attention")));
  machine.devices[0].max_alloc_bytes = kGiB;
  // A KV cache above the largest buffer: 2M tokens of 576 values take 2.25 GiB a layer. MLA's lies
  // in several.
  profile.attention = Side::kAuto;
  profile.context = 2 << 20;
  plan = MakePlan(test::V3(), V3Tensors(), machine, profile, Precision::kFast);
  EXPECT_TRUE(plan.layers[0].attention.on_device());
  EXPECT_EQ(KvBuffersOf(test::V3(), plan).count, 3);
}

// Heads of their own, 2 GiB a layer: it lies in several, too, unless there are too many.
TEST(LargestBuffer, KeysAndValuesLieInSeveral) {
  Machine machine = test::GpuMachine(80);
  machine.devices[0].max_alloc_bytes = kGiB;
  Config config = test::V2Lite();
  config.attention = AttentionKind::kMha;
  config.q_lora_rank = config.kv_lora_rank = 0;
  config.qk_nope_head_dim = 0;
  config.qk_rope_head_dim = 128;
  const TensorList tensors = ExpectedTensors(config, DType::kBF16);
  Profile profile;
  profile.context = 256 << 10;
  const auto make = [&] { return MakePlan(config, tensors, machine, profile, Precision::kFast); };
  Plan plan = make();
  EXPECT_TRUE(plan.layers[0].attention.on_device());
  EXPECT_EQ(KvBuffersOf(config, plan).count, 3);
  machine.devices[0].max_alloc_bytes = 24 * kMiB;
  plan = make();
  EXPECT_FALSE(plan.layers[0].attention.on_device());
  EXPECT_TRUE(plan.layers[0].dense.on_device());
  EXPECT_THAT(plan.notes,
              Contains(AllOf(HasSubstr("attention stays on the host"), HasSubstr("KV cache"),
                             HasSubstr("24.00 MiB"), HasSubstr("workload.context"))));
  profile.attention = Side::kDevice;
  EXPECT_THAT(test::Refusal(make, ExitCode::kUnavailable), HasSubstr("KV cache"));
}

// The most rows that a profile names are halved until each buffer for them fits: 512 rows of nine
// experts' outputs take 126 MiB, and attention takes fewer rows at a time.
TEST(LargestBuffer, AStepHasAsManyRowsAsItTakes) {
  Machine machine = test::GpuMachine(80);
  machine.devices[0].max_alloc_bytes = 64 * kMiB;
  Profile profile;
  const auto make = [&] {
    return MakePlan(test::V3(), V3Tensors(), machine, profile, Precision::kFast);
  };
  for (const Side attention : {Side::kAuto, Side::kDevice}) {
    profile.attention = attention;
    profile.chunk = 512;
    Plan plan = make();
    EXPECT_EQ(plan.max_rows, 256);
    EXPECT_TRUE(plan.layers[0].attention.on_device());
    EXPECT_TRUE(plan.layers[4].experts[0].on_device());
    EXPECT_LT(DeviceMlaRows(test::V3(), plan), 256);
    EXPECT_LE(LargestBuffer(test::V3(), plan, UseOf(plan, Place::Device(0))).bytes(), 64 * kMiB);
    EXPECT_THAT(plan.notes, Contains(AllOf(HasSubstr("256 rows"), HasSubstr("workload.chunk"),
                                           HasSubstr("one of 512"), HasSubstr("64.00 MiB"))));
    profile.chunk = 256;  // nothing to say
    plan = make();
    EXPECT_EQ(plan.max_rows, 256);
    EXPECT_THAT(plan.notes, Not(Contains(HasSubstr("a step has"))));
  }
  profile.chunk.reset();
  profile.attention = Side::kAuto;
  const Plan plan = make();
  EXPECT_TRUE(plan.layers[0].attention.on_device());
  EXPECT_TRUE(plan.head.on_device());
  EXPECT_LE(LargestBuffer(test::V3(), plan, UseOf(plan, Place::Device(0))).bytes(), 64 * kMiB);
}

// Every device that OpenCL calls conformant has buffers of 128 MiB: there nothing of DeepSeek's
// models has to stay on the host.
TEST(LargestBuffer, TheLeastThatOpenClGuaranteesServes) {
  Machine machine = test::GpuMachine(80);
  machine.devices[0].max_alloc_bytes = 128 * kMiB;
  Profile profile;
  profile.chunk = 512;
  const Plan plan = MakePlan(test::V3(), V3Tensors(), machine, profile, Precision::kFast);
  EXPECT_EQ(plan.max_rows, 512);
  EXPECT_TRUE(plan.layers[0].attention.on_device());
  EXPECT_TRUE(plan.layers[4].experts[0].on_device());
  EXPECT_THAT(plan.notes, Not(Contains(HasSubstr("in one buffer"))));
}

// Twelve experts of 42 MiB.
TEST(LargestBuffer, StreamingThatIsDemandedNeedsItsSlots) {
  Machine machine = test::GpuMachine(80);
  machine.devices[0].max_alloc_bytes = 128 * kMiB;
  Profile profile;
  profile.chunk = 64;
  PlanOptions options;
  options.abilities.stream_prefill = true;
  const auto make = [&] { return MakePlan(test::V3(), V3Tensors(), machine, profile, options); };
  EXPECT_FALSE(make().stream_prefill);
  profile.prefill_experts = Profile::PrefillExperts::kStream;
  profile.attention = Side::kDevice;
  EXPECT_THAT(test::Refusal(make, ExitCode::kUnavailable),
              AllOf(HasSubstr("'stream'"), HasSubstr("placement.prefill_experts")));
}

// An expert's three matrices lie in one buffer.
TEST(LargestBuffer, ExpertsAboveTheLargestBufferStayOnTheHost) {
  Machine machine = test::GpuMachine(80);
  machine.devices[0].max_alloc_bytes = 40 * kMiB;  // V3's take 42.01 MiB in FP8
  Profile profile;
  profile.chunk = 64;
  const Plan plan = MakePlan(test::V3(), V3Tensors(), machine, profile, Precision::kFast);
  EXPECT_TRUE(plan.layers[4].shared.on_device());
  for (const Place place : plan.layers[4].experts) EXPECT_FALSE(place.on_device());
  EXPECT_THAT(plan.notes, Contains(AllOf(HasSubstr("routed experts"), HasSubstr("42.01 MiB"),
                                         HasSubstr("40.00 MiB"))));
}

}  // namespace
}  // namespace tandem
