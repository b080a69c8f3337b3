// ctest: opencl
// Host experts that stream to a device in prefill, against the same experts on the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/engine.h"
#include "runtime/session.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

Profile HybridProfile(bool stream) {
  Profile profile = Placement("attention_only");
  profile.shared_experts = profile.dense = profile.router = profile.head = Side::kDevice;
  profile.experts = Profile::Experts::kShare;
  profile.experts_share = 0;
  profile.prefill_experts =
      stream ? Profile::PrefillExperts::kStream : Profile::PrefillExperts::kHost;
  profile.context = 512;
  profile.chunk = 96;
  return profile;
}

std::vector<std::int32_t> Ids(std::int64_t n, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) {
    ids.push_back(static_cast<std::int32_t>((i * 7919 + 13) % vocab));
  }
  return ids;
}

struct Outcome {
  std::vector<float> logits;
  Metrics metrics;
};

Outcome PrefillOf(const std::string& model, const Profile& profile, Precision precision) {
  Engine engine = MakeEngine(model, profile, precision);
  engine.ResetMetrics();
  const std::int32_t s = engine.NewSequence();
  Outcome run;
  run.logits = Prefill(engine, s, Ids(200, engine.config().vocab_size), 96);
  run.metrics = engine.metrics();
  return run;
}

double Largest(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return most;
}

class ExpertStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  }
};

TEST_F(ExpertStreamTest, GivesTheLogitsOfExpertsOnTheHost) {
  for (const std::string& model : {DemoDir(), GoldenDir("v3")}) {
    const Outcome host = PrefillOf(model, HybridProfile(false), Precision::kExact);
    const Outcome streamed = PrefillOf(model, HybridProfile(true), Precision::kExact);
    ASSERT_EQ(host.logits.size(), streamed.logits.size());
    EXPECT_EQ(host.metrics.streamed_bytes, 0U);
    EXPECT_GT(streamed.metrics.streamed_bytes, 0U) << model;
    EXPECT_GT(streamed.metrics.stream_s, 0);
    // As far apart as placements are: sums of f32 in another order.
    EXPECT_LE(Largest(host.logits, streamed.logits), 1e-3) << model;
  }
}

TEST_F(ExpertStreamTest, FromWhereTheyLieAndThroughTheRing) {
  for (const std::string& model : {DemoDir(), GoldenDir("v3")}) {
    Profile profile = HybridProfile(true);
    profile.stream_memory = StreamMemory::kRing;
    const Outcome ring = PrefillOf(model, profile, Precision::kExact);
    EXPECT_FALSE(ring.metrics.stream_in_place);
    profile.stream_memory = StreamMemory::kLocked;
    const Outcome locked = PrefillOf(model, profile, Precision::kExact);
    EXPECT_TRUE(locked.metrics.stream_in_place);
    EXPECT_EQ(locked.logits, ring.logits) << model;
    EXPECT_GE(locked.metrics.streamed_bytes, ring.metrics.streamed_bytes)
        << "with what lies between";
  }
}

// Three slots for each layer's eight groups: they are used again within a layer.
TEST_F(ExpertStreamTest, OnALittleDevice) {
  for (const StreamMemory memory : {StreamMemory::kRing, StreamMemory::kLocked}) {
    Profile profile = HybridProfile(true);
    profile.stream_memory = memory;
    const Outcome much = PrefillOf(DemoDir(), profile, Precision::kExact);
    profile.device_memory_bytes = std::uint64_t{16} << 20;
    const Outcome little = PrefillOf(DemoDir(), profile, Precision::kExact);
    EXPECT_GT(little.metrics.streamed_bytes, 0U);
    EXPECT_EQ(little.logits, much.logits);
  }
}

// A decode step is too small to stream: its experts run on the host.
TEST_F(ExpertStreamTest, OneRowStaysOnTheHost) {
  Engine engine = MakeEngine(DemoDir(), HybridProfile(true), Precision::kExact);
  engine.ResetMetrics();
  const std::int32_t s = engine.NewSequence();
  Prefill(engine, s, Ids(1, engine.config().vocab_size), 1);
  EXPECT_EQ(engine.metrics().streamed_bytes, 0U);
  EXPECT_GT(engine.metrics().expert_rows_host, 0);
}

}  // namespace
}  // namespace tandem::test
