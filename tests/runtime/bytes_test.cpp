// ctest: opencl
// Planned bytes are the real ones: buffer by buffer where the runtime allocates, and in total where
// the system counts.
#include <gtest/gtest.h>

#include <algorithm>

#include "memory/usage.h"
#include "placement/planner.h"
#include "runtime/engine.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

struct Planned {
  std::uint64_t weights = 0;
  std::uint64_t kv = 0;
  std::uint64_t scratch = 0;
};

Planned PlannedOn(const Plan& plan, bool device) {
  Planned planned;
  for (const PlanItem& item : plan.items) {
    if (item.place.on_device() != device || item.what == "program") continue;
    std::uint64_t& group = item.what == "KV cache"  ? planned.kv
                           : item.what == "scratch" ? planned.scratch
                                                    : planned.weights;
    group += item.bytes;
  }
  return planned;
}

// f32 vectors (norms, biases) are no HostBuffers, but the plan counts them with the host's weights.
std::uint64_t VectorBytes(const Model& model) {
  std::uint64_t bytes = 0;
  for (const TensorInfo& t : model.tensors.all()) {
    if (t.shape.size() < 2 && t.role != Role::kMtp) {
      bytes += (t.elements() * sizeof(float) + 63) / 64 * 64;
    }
  }
  return bytes;
}

std::vector<std::int32_t> Ids(std::int64_t n, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) {
    ids.push_back(static_cast<std::int32_t>((i * 7919 + 13) % vocab));
  }
  return ids;
}

void ExpectPlannedBytes(const Engine& engine, std::uint64_t vectors) {
  const EngineBytes real = engine.bytes();
  const Planned host = PlannedOn(engine.plan(), false);
  const Planned device = PlannedOn(engine.plan(), true);
  const DeviceBytes there = real.devices.empty() ? DeviceBytes{} : real.devices[0];
  EXPECT_EQ(device.weights, there.weights);
  EXPECT_EQ(device.kv, there.kv);
  EXPECT_EQ(device.scratch, there.scratch);
  EXPECT_EQ(host.kv, real.host_kv);
  EXPECT_EQ(host.scratch, real.host_scratch);
  const std::uint64_t counted = real.host_weights + vectors;
  EXPECT_GE(host.weights, counted);
  // Beyond the first, every node may round up the last line of each tensor.
  const std::uint64_t slack =
      128 * engine.model().tensors.all().size() * (engine.plan().nodes.size() - 1);
  EXPECT_LE(host.weights, counted + slack);
}

struct Case {
  std::string model;
  std::string placement;
  Precision precision;
  std::int64_t context;
  std::int64_t chunk;
  DType activation;
};

class BytesTest : public testing::TestWithParam<Case> {};

TEST_P(BytesTest, EveryBufferIsPlanned) {
  const Case& c = GetParam();
  if (NeedsDevice(c.placement) && !HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  Profile profile = Placement(c.placement);
  profile.context = c.context;
  profile.chunk = c.chunk;
  profile.activation_type = c.activation;
  const std::uint64_t before = HostBufferBytes();
  Engine engine = MakeEngine(c.model, profile, c.precision);
  ExpectPlannedBytes(engine, VectorBytes(engine.model()));
  const EngineBytes real = engine.bytes();
  const std::uint64_t host = HostBufferBytes() - before;
  EXPECT_EQ(host, real.host_weights + real.host_kv + real.host_scratch);
  const std::int32_t s = engine.NewSequence();
  Prefill(engine, s, Ids(100, engine.config().vocab_size), c.chunk);
  EXPECT_EQ(HostBufferBytes() - before, host) << "a step allocated";
  if (engine.plan().devices.empty()) return;
  EXPECT_EQ(DeviceBufferBytes(engine.plan().devices[0].index), real.devices[0].all());
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  std::int64_t context = 256;
  for (const char* model : {"v2", "v2-lite", "v3", "deepseek"}) {
    for (const std::string& placement : AllPlacements()) {
      context = context == 256 ? 1000 : 256;
      cases.push_back({GoldenDir(model), placement, Precision::kExact, context, 64, DType::kF32});
    }
  }
  for (const char* placement : {"none", "half", "experts_only"}) {
    cases.push_back({DemoDir(), placement, Precision::kFast, 2048, 128, DType::kBF16});
  }
  return cases;
}

std::string NameOf(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model.substr(info.param.model.rfind('/') + 1) + "_" +
                     info.param.placement + "_" + std::to_string(info.index);
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, BytesTest, testing::ValuesIn(Cases()), NameOf);

TEST(Bytes, SeveralNodesAreWithinTheirRounding) {
  Model model = OpenCheckpoint(GoldenDir("v3"));
  Machine machine = ReadMachine(ProbeDevices::kNo);
  Node node = machine.nodes[0];
  node.cores.resize(1);
  machine.nodes.assign(3, node);
  Profile profile = Placement("none");
  profile.threads.reset();
  Plan plan = MakePlan(model.config, model.tensors, machine, profile, Precision::kExact);
  ASSERT_EQ(plan.nodes.size(), 3U);
  const Engine engine(std::move(model), std::move(plan));
  ExpectPlannedBytes(engine, VectorBytes(engine.model()));
}

// What the system counts, for a model of more than a GiB whose KV cache and scratch are in use.
void ExpectResident(const std::string& device) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer keeps what is freed";
#endif
  Model model = OpenSynthetic("deepseek-v2-lite:layers=2:dtype=bf16:experts=32");
  Profile profile;
  profile.device = device;
  profile.context = 512;
  profile.max_sequences = 1;
  profile.chunk = 256;
  if (device == "none") profile.threads = 2;
  if (device != "none") profile.device_memory_bytes = std::uint64_t{400} << 20;
  const Machine machine = ReadMachine(device == "none" ? ProbeDevices::kNo : ProbeDevices::kYes);
  Plan plan = MakePlan(model.config, model.tensors, machine, profile, Precision::kFast);
  Engine engine(std::move(model), std::move(plan));
  const std::int32_t s = engine.NewSequence();
  Prefill(engine, s, Ids(512, engine.config().vocab_size), 256);
  const auto planned = static_cast<double>(engine.plan().HostMemoryBytes());
  const auto resident = static_cast<double>(ReadResidentBytes().now);
  EXPECT_GE(planned, resident);
  // With a device on the CPU the kernels' compiler is planned for and may not have been needed.
  const double compiler = device == "none" ? 0 : double{1 << 20} * 170;
  EXPECT_LE(planned, 1.05 * resident + compiler)
      << "planned " << planned << ", resident " << resident;
  std::printf("planned %.0f MiB, resident %.0f MiB, ratio %.3f\n", planned / (1 << 20),
              resident / (1 << 20), planned / resident);
}

TEST(Bytes, ResidentMemoryIsAtMostWhatIsPlanned) { ExpectResident("none"); }

TEST(Bytes, ResidentMemoryWithADeviceOnTheCpu) {
  const Machine machine = ReadMachine(ProbeDevices::kYes);
  if (machine.devices.empty() || !machine.devices[0].shares_cores) {
    GTEST_SKIP() << "no OpenCL device that shares the cores";
  }
  ExpectResident("0");
}

// Behind the tests of resident memory, of which PoCL keeps some once it was used. A step of more
// rows than are polled goes by events; the memory for polling is still there.
TEST(Bytes, OfAPolledHandOverAfterALongStep) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  Profile profile = Placement("half");
  profile.context = 256;
  profile.chunk = 64;
  profile.hand_over = HandOverWay::kPolled;
  Engine engine = MakeEngine(GoldenDir("v3"), profile, Precision::kExact);
  Prefill(engine, engine.NewSequence(), Ids(64, engine.config().vocab_size), 64);
  ExpectPlannedBytes(engine, VectorBytes(engine.model()));
}

}  // namespace
}  // namespace tandem::test
