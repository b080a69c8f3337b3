// ctest: opencl
// Plans over two devices, on two devices of PoCL: the reference's logits, the planned bytes on
// each, and the same bits every time.
#include "runtime/expert_device.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "memory/error.h"
#include "memory/usage.h"
#include "placement/planner.h"
#include "runtime/abilities.h"
#include "tests/support/golden.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

constexpr float kExactTolerance = 1e-3F;

// PoCL lists as many devices as its drivers are named, when its platform is first opened here; a
// probe opens it in a process of its own.
bool HaveTwoDevices() {
  static const bool have = [] {
    for (const char* drivers : {"pthread pthread", "cpu cpu"}) {
      setenv("POCL_DEVICES", drivers, 1);
      if (ProbeClDevices().devices.size() >= 2) return true;
    }
    return false;
  }();
  return have;
}

bool OnCpu() {
  static const bool cpu = ProbeClDevices().devices.front().is_cpu;
  return cpu;
}

Rule Experts(int first, int last, const char* device) {
  Rule rule;
  rule.role = "routed_experts";
  rule.experts = {{first, last}};
  rule.place = Side::kDevice;
  rule.device = device;
  return rule;
}

// The golden models have 16 experts a layer; what no rule names stays on the host.
Profile TwoDevices(const std::string& name) {
  Profile p = Placement(name == "router_on_host" ? "router_on_host"
                        : name == "experts_only" ? "experts_only"
                                                 : "device");
  p.device = "0,1";
  p.experts_share = 0;
  p.activation_type = DType::kF32;
  const bool halves = name == "halves" || name == "second_leads";
  p.rules = {Experts(0, halves ? 7 : 4, "0"), Experts(8, halves ? 15 : 12, "1")};
  if (name == "only_further") p.rules = {Experts(0, 15, "1")};
  if (name == "second_leads") {
    Rule lead;
    lead.role = "attention";
    lead.place = Side::kDevice;
    lead.device = "1";
    p.rules.push_back(lead);
  }
  return p;
}

std::vector<std::string> Names() {
  return {"halves", "thirds", "router_on_host", "experts_only", "only_further", "second_leads"};
}

std::vector<std::int32_t> SomeIds(std::int32_t n = 60) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < n; ++i) ids.push_back((i * 53 + 11) % 300);
  return ids;
}

std::vector<float> LogitsOf(Engine& engine, std::int64_t chunk = 50) {
  const std::int32_t s = engine.NewSequence();
  std::vector<float> logits = Prefill(engine, s, SomeIds(), chunk);
  engine.FreeSequence(s);
  return logits;
}

std::int64_t ExpertsOn(const Plan& plan, int device) {
  std::int64_t n = 0;
  for (const LayerPlan& layer : plan.layers) {
    n += std::ranges::count(layer.experts, Place::Device(device));
  }
  return n;
}

struct Case {
  std::string model;
  std::string placement;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " on " << c.placement; }

class TwoDevicesTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  }
  std::string dir() const { return GoldenDir(GetParam().model); }
  Profile profile() const { return TwoDevices(GetParam().placement); }
};

TEST_P(TwoDevicesTest, LogitsOfTheReference) {
  const Golden golden = ReadGolden(dir());
  Engine engine = MakeEngine(dir(), profile(), Precision::kExact);
  ASSERT_EQ(engine.plan().devices.size(), 2U);
  ASSERT_GT(ExpertsOn(engine.plan(), 1), 0);
  for (const std::int64_t chunk : {256, 7, 1}) {
    const std::int32_t s = engine.NewSequence();
    Recorder seen;
    const auto logits = Prefill(engine, s, golden.prompt_ids, chunk, &seen);
    const Difference worst = WorstDifference(logits, golden.logits);
    EXPECT_LE(worst.difference, kExactTolerance) << worst << ", chunk " << chunk;
    for (std::size_t i = 0; i < golden.hidden.size(); ++i) {
      const Difference h = WorstDifference(seen.hidden[static_cast<int>(i)], golden.hidden[i]);
      EXPECT_LE(h.difference, kExactTolerance)
          << "hidden." << i << ": " << h << ", chunk " << chunk;
    }
    // Without an observer, layers are enqueued ahead of each other; a GPU's head norms x itself.
    const std::int32_t ahead = engine.NewSequence();
    const Difference apart =
        WorstDifference(Prefill(engine, ahead, golden.prompt_ids, chunk), logits);
    EXPECT_LE(apart.difference, OnCpu() ? 0 : 1e-5F) << apart << ", chunk " << chunk;
    engine.FreeSequence(s);
    engine.FreeSequence(ahead);
  }
}

TEST_P(TwoDevicesTest, EveryBufferIsPlannedAndEveryPairCounted) {
  const std::uint64_t before = HostBufferBytes();
  Engine engine = MakeEngine(dir(), profile(), Precision::kExact);
  const EngineBytes real = engine.bytes();
  const Plan& plan = engine.plan();
  ASSERT_EQ(real.devices.size(), 2U);
  for (int d = 0; d < 2; ++d) {
    SCOPED_TRACE(fmt::format("device {}", d));
    EXPECT_EQ(plan.DeviceBytes(d), real.devices[d].all());
    EXPECT_EQ(DeviceBufferBytes(plan.devices[d].index), real.devices[d].all());
  }
  const std::uint64_t host = HostBufferBytes() - before;
  EXPECT_EQ(host, real.host_weights + real.host_kv + real.host_scratch);
  std::uint64_t scratch = 0;
  for (const PlanItem& item : plan.items) {
    if (item.what == "scratch" && !item.place.on_device()) scratch += item.bytes;
  }
  EXPECT_EQ(scratch, real.host_scratch);
  LogitsOf(engine);
  EXPECT_EQ(HostBufferBytes() - before, host) << "a step allocated";
  const Metrics& m = engine.metrics();
  const auto moe = std::ranges::count_if(plan.layers, &LayerPlan::moe);
  EXPECT_EQ(m.expert_rows_device + m.expert_rows_host,
            60 * engine.config().num_experts_per_tok * moe);
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& name : Names()) {
    for (const char* model : {"v2-lite", "v3"}) cases.push_back({model, name});
  }
  return cases;
}

std::string NameOf(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model + "_" + info.param.placement;
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, TwoDevicesTest, testing::ValuesIn(Cases()), NameOf);

TEST(TwoDevices, SameBitsEveryTimeAndAfterTheyAreOpenedAgain) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  for (const char* placement : {"thirds", "experts_only"}) {
    Engine engine = MakeEngine(GoldenDir("v3"), TwoDevices(placement), Precision::kFast);
    const std::vector<float> first = LogitsOf(engine);
    EXPECT_EQ(LogitsOf(engine), first) << placement;
    engine.Recover();
    EXPECT_EQ(LogitsOf(engine), first) << placement;
  }
}

TEST(TwoDevices, TheOneThatRulesNameLeads) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  const Engine engine = MakeEngine(GoldenDir("v3"), TwoDevices("second_leads"), Precision::kExact);
  const Plan& plan = engine.plan();
  EXPECT_EQ(plan.devices[0].index, 1);
  EXPECT_EQ(plan.layers.back().attention, Place::Device(0));
  EXPECT_EQ(plan.layers.back().experts[15], Place::Device(0));
  EXPECT_EQ(plan.layers.back().experts[0], Place::Device(1));
}

TEST(TwoDevices, RolesOnBothAreRefused) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  Profile profile = TwoDevices("second_leads");
  Rule head = profile.rules.back();
  head.role = "head";
  head.device = "0";
  profile.rules.push_back(head);
  try {
    MakeEngine(GoldenDir("v3"), profile, Precision::kExact);
    FAIL() << "a plan with attention and head on different devices";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("runs on one device"), std::string::npos)
        << error.what();
  }
}

// Experts of the host go to the first device in prefill, those of the second are there already.
TEST(TwoDevices, StreamingBesideAFurtherDevice) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  Profile profile = TwoDevices("thirds");
  Engine plain = MakeEngine(GoldenDir("v3"), profile, Precision::kExact);
  profile.prefill_experts = Profile::PrefillExperts::kStream;
  Engine streams = MakeEngine(GoldenDir("v3"), profile, Precision::kExact);
  ASSERT_TRUE(streams.plan().stream_prefill);
  ASSERT_LE(streams.plan().stream.rows, 60);
  const std::vector<float> logits = LogitsOf(streams, 60);
  EXPECT_GT(streams.metrics().streamed_bytes, 0U);
  EXPECT_EQ(streams.metrics().expert_rows_host, 0);
  const Difference worst = WorstDifference(logits, LogitsOf(plain, 60));
  EXPECT_LE(worst.difference, kExactTolerance) << worst;
  for (int d = 0; d < 2; ++d) {
    EXPECT_EQ(streams.plan().DeviceBytes(d), streams.bytes().devices[d].all()) << d;
  }
}

TEST(TwoDevices, TheCacheBesideAFurtherDevice) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  const auto answer = [](Engine& engine) {
    const std::int32_t s = engine.NewSequence();
    std::vector<float> logits = Prefill(engine, s, SomeIds(20), 20);
    logits.erase(logits.begin(), logits.end() - engine.config().vocab_size);
    return Greedy(engine, s, logits, 30);
  };
  Profile profile = TwoDevices("thirds");
  Engine plain = MakeEngine(GoldenDir("v3"), profile, Precision::kExact);
  profile.expert_cache_bytes = std::uint64_t{1} << 20;
  Engine cached = MakeEngine(GoldenDir("v3"), profile, Precision::kExact);
  EXPECT_EQ(answer(cached), answer(plain));
  EXPECT_GT(cached.metrics().cache_hits, 0);
}

// From two devices to one, to none and back: the bits of an engine that was loaded so.
TEST(TwoDevices, GoOverToOtherPlans) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  const Model model = OpenCheckpoint(GoldenDir("v3"));
  const Machine machine = ReadMachine(ProbeDevices::kYes);
  const auto plan_of = [&](Profile profile) {
    profile.threads = profile.device_threads = 1;  // as many in every plan, on any machine
    return MakePlan(
        model.config, model.tensors, machine, profile,
        {.precision = Precision::kExact, .statistics = nullptr, .abilities = kAbilities});
  };
  Profile one = Placement("half");
  one.device = "0";
  const std::vector<Profile> tour = {TwoDevices("halves"), one, TwoDevices("thirds"),
                                     Placement("none"), TwoDevices("halves")};
  Engine engine(OpenCheckpoint(GoldenDir("v3")), plan_of(tour[0]));
  for (const Profile& profile : tour) {
    const Plan plan = plan_of(profile);
    engine.Apply(plan);
    Engine fresh(OpenCheckpoint(GoldenDir("v3")), plan);
    EXPECT_EQ(LogitsOf(engine), LogitsOf(fresh)) << plan.devices.size() << " devices";
    const EngineBytes real = engine.bytes();
    ASSERT_EQ(real.devices.size(), plan.devices.size());
    for (std::size_t d = 0; d < real.devices.size(); ++d) {
      EXPECT_EQ(real.devices[d].all(), plan.DeviceBytes(static_cast<int>(d))) << d;
    }
  }
  const Plan second = plan_of(TwoDevices("second_leads"));
  EXPECT_THROW(engine.Apply(second), UsageError) << "an open device has changed its place";
}

// What `tandem run` gave.
struct Outcome {
  int code = -1;
  std::string out, err;
  std::uint64_t kernels = 0;  // enqueued, where the layer of faults was there
};
Outcome Tandem(const std::string& environment, const std::string& options) {
  const TempFolder folder;
  const std::string at = folder.path().string();
  const int status = std::system(
      fmt::format(
          "TANDEM_CL_FAULTS_LOG={}/log {} timeout 120 {} run --model {} {} --precision exact "
          "-p 'To be' -n 8 --temperature 0 </dev/null >{}/out 2>{}/err",
          at, environment, TANDEM_BINARY, DemoDir(), options, at, at)
          .c_str());
  Outcome got{WIFEXITED(status) ? WEXITSTATUS(status) : 128, ReadText(folder / "out"),
              ReadText(folder / "err"), 0};
  std::istringstream log(ReadText(folder / "log"));
  std::string kind, function;
  for (std::uint64_t n = 0; log >> kind >> function >> n;) {
    if (kind == "calls" && function == "clEnqueueNDRangeKernel") got.kernels = n;
  }
  return got;
}

std::string ProfileText(const std::string& roles, const std::string& rules) {
  return fmt::format(
      "extends: two-gpus\nworkload: {{context: 9000}}\nplacement: {{attention: {0}, dense: {0}, "
      "router: {0}, shared_experts: {0}, head: device, routed_experts: {{share: 0}}}}\nrules:\n{1}",
      roles, rules);
}

TEST(TwoDevices, FromTheCommandLine) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  const TempFolder folder;
  const auto file = folder.Write(
      "halves.yaml", ProfileText("device",
                                 "  - {role: routed_experts, experts: [[0, 15]], place: 0}\n"
                                 "  - {role: routed_experts, experts: [[16, 31]], place: 1}\n"));
  const Outcome host = Tandem("", "--device none");
  const Outcome halves = Tandem("", "--plan-report --profile " + file.string());
  ASSERT_EQ(halves.code, 0) << halves.err;
  EXPECT_EQ(halves.out, host.out);
  EXPECT_NE(halves.err.find("attention of 5/5 layers and 64/128 experts"), std::string::npos)
      << halves.err;
  EXPECT_NE(halves.err.find("device1 weights"), std::string::npos) << halves.err;
  EXPECT_NE(halves.err.find("further devices run experts"), std::string::npos) << halves.err;
  for (const char* all : {"--device all", "--profile two-gpus"}) {  // the planner's choice
    const Outcome chosen = Tandem("", all);
    EXPECT_EQ(chosen.code, 0) << all << ": " << chosen.err;
    EXPECT_EQ(chosen.out, host.out) << all;
  }
}

// A further device that is lost is told by its number, opened again, and the answer is the same.
TEST(TwoDevices, AFurtherDeviceThatIsLostComesBack) {
  if (!HaveTwoDevices()) GTEST_SKIP() << "no two OpenCL devices";
  const TempFolder folder;
  const auto file = folder.Write(
      "further.yaml", ProfileText("host",
                                  "  - {role: routed_experts, experts: [[0, 31]], place: 1}\n"
                                  "  - {role: head, place: 0}\n"));
  const std::string options = "--profile " + file.string();
  const std::string layer = fmt::format("OPENCL_LAYERS={}", TANDEM_CL_FAULTS_LAYER);
  Tandem(layer, options);  // the first run tests the devices, later ones know that they passed
  const Outcome sound = Tandem(layer, options);
  ASSERT_EQ(sound.code, 0) << sound.err;
  if (sound.kernels == 0) GTEST_SKIP() << "this OpenCL loader loads no layers";
  int named = 0;
  // Most of a step's kernels are experts': of any three in a row one is.
  for (std::uint64_t n = sound.kernels - 20; n < sound.kernels - 17; ++n) {
    const Outcome got =
        Tandem(fmt::format("{} TANDEM_CL_FAULTS=clEnqueueNDRangeKernel:{}:-5", layer, n), options);
    EXPECT_EQ(got.code, 0) << got.err;
    EXPECT_EQ(got.out, sound.out) << got.err;
    EXPECT_NE(got.err.find("was lost and opened again"), std::string::npos) << got.err;
    named += got.err.find("device 1, which runs experts") != std::string::npos ? 1 : 0;
  }
  EXPECT_GT(named, 0);
}

}  // namespace
}  // namespace tandem::test
