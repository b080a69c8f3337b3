// ctest: unit
#include "placement/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "invented.h"
#include "memory/error.h"
#include "placement/planner.h"
#include "placement/yaml_tree.h"

namespace tandem {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Fault(const std::string& yaml) {
  return test::Refusal([&] { ParseProfile(yaml, "p.yaml"); }, ExitCode::kConfig);
}

TEST(Profile, EmptyTextsAreTheDefault) {
  for (const char* yaml : {"", "# nothing\n", "---\n", "{}\n", "memory:\nkv:\n"}) {
    const Profile profile = ParseProfile(yaml, "p.yaml");
    EXPECT_EQ(profile.device, "auto") << yaml;
    EXPECT_EQ(profile.context, 4096) << yaml;
    EXPECT_FALSE(profile.device_memory_bytes) << yaml;
    EXPECT_EQ(profile.file, "p.yaml");
  }
}

TEST(Profile, EveryKey) {
  const Profile p = ParseProfile(
      "device: NVIDIA H200\n"
      "memory: {device: 22 GiB, host: 214748364800}\n"
      "threads: 30\n"
      "device_threads: 2\n"
      "workload: {context: 8192, sequences: 2, chunk: 128}\n"
      "kv: {type: f32}\n"
      "placement:\n"
      "  attention: device\n"
      "  dense: host\n"
      "  shared_experts: device\n"
      "  router: host\n"
      "  head: device\n"
      "  routed_experts: {bytes: 1.5 GiB}\n"
      "  experts_order: [7, 0, 12]\n"
      "  layers: [1, 30]\n",
      "p.yaml");
  EXPECT_EQ(p.device, "NVIDIA H200");
  EXPECT_EQ(p.device_memory_bytes, 22 * test::kGiB);
  EXPECT_EQ(p.host_memory_bytes, 200 * test::kGiB);
  EXPECT_EQ(p.threads, 30);
  EXPECT_EQ(p.device_threads, 2);
  EXPECT_EQ(p.context, 8192);
  EXPECT_EQ(p.max_sequences, 2);
  EXPECT_EQ(p.chunk, 128);
  EXPECT_EQ(p.kv_type, DType::kF32);
  EXPECT_EQ(p.attention, Side::kDevice);
  EXPECT_EQ(p.dense, Side::kHost);
  EXPECT_EQ(p.shared_experts, Side::kDevice);
  EXPECT_EQ(p.router, Side::kHost);
  EXPECT_EQ(p.head, Side::kDevice);
  EXPECT_EQ(p.experts, Profile::Experts::kBytes);
  EXPECT_EQ(p.experts_bytes, 1536 * test::kMiB);
  EXPECT_EQ(p.experts_order, (std::vector<int>{7, 0, 12}));
  EXPECT_EQ(p.device_layers, std::make_pair(std::int64_t{1}, std::int64_t{30}));
}

TEST(Profile, RoutedExpertsInEveryForm) {
  const auto parse = [](const std::string& value) {
    return ParseProfile("placement: {routed_experts: " + value + "}", "p.yaml");
  };
  EXPECT_EQ(parse("auto").experts, Profile::Experts::kAuto);
  EXPECT_EQ(parse("host").experts, Profile::Experts::kShare);
  EXPECT_EQ(parse("host").experts_share, 0);
  EXPECT_EQ(parse("device").experts_share, 1);
  EXPECT_EQ(parse("{share: 0.25}").experts_share, 0.25);
  EXPECT_EQ(parse("{bytes: 6 GiB}").experts_bytes, 6 * test::kGiB);
  EXPECT_EQ(ParseProfile("device: 0", "p").device, "0");
}

struct Bad {
  const char* yaml;
  const char* where;  // start of the message
  const char* what;   // a part of it
};
void PrintTo(const Bad& bad, std::ostream* out) { *out << bad.where; }

class ProfileFault : public ::testing::TestWithParam<Bad> {};

// F91
TEST_P(ProfileFault, IsReportedWhereItIs) {
  EXPECT_THAT(Fault(GetParam().yaml),
              AllOf(StartsWith(GetParam().where), HasSubstr(GetParam().what)));
}

INSTANTIATE_TEST_SUITE_P(
    All, ProfileFault,
    ::testing::Values(
        Bad{"placment:\n", "p.yaml:1:1: 'placment'", "did you mean 'placement'?"},
        Bad{"device: auto\nplacement:\n  atention: host\n", "p.yaml:3:3: 'atention'",
            "did you mean 'attention'?"},
        Bad{"workload: {contxet: 5}\n", "p.yaml:1:12: 'contxet'", "did you mean 'context'?"},
        Bad{"frobnicate: 1\n", "p.yaml:1:1: 'frobnicate'", "unknown key (known: device, memory"},
        Bad{"threads: many\n", "p.yaml:1:10: 'threads'",
            "expected a whole number from 1 to 4096, found 'many'"},
        Bad{"threads: '4'\n", "p.yaml:1:10: 'threads'", "found '4'"},
        Bad{"threads: 4.5\n", "p.yaml:1:10: 'threads'", "found '4.5'"},
        Bad{"threads: 0\n", "p.yaml:1:10: 'threads'", "from 1 to 4096, found '0'"},
        Bad{"threads: 99999999999999999999\n", "p.yaml:1:10: 'threads'", "from 1 to 4096"},
        Bad{"threads:\n", "p.yaml:1:1: 'threads'", "found nothing"},
        Bad{"threads: [1]\n", "p.yaml:1:10: 'threads'", "found a list"},
        Bad{"device_threads: -1\n", "p.yaml:1:17: 'device_threads'", "from 1 to 4096"},
        Bad{"device: {a: 1}\n", "p.yaml:1:9: 'device'", "found a map"},
        Bad{"memory: 5 GiB\n", "p.yaml:1:9: 'memory'", "expected a map, found '5 GiB'"},
        Bad{"memory: {device: 5 GB}\n", "p.yaml:1:18: 'memory.device'", "expected a size"},
        Bad{"memory: {device: -5}\n", "p.yaml:1:18: 'memory.device'", "expected a size"},
        Bad{"memory: {device: 0.3}\n", "p.yaml:1:18: 'memory.device'", "expected a size"},
        Bad{"memory: {device: nan}\n", "p.yaml:1:18: 'memory.device'", "expected a size"},
        Bad{"memory: {host: 1000 TiB}\n", "p.yaml:1:16: 'memory.host'", "64.00 TiB"},
        Bad{"memory: {host: 10}\n", "p.yaml:1:16: 'memory.host'", "1.00 MiB"},
        Bad{"workload: {chunk: 65537}\n", "p.yaml:1:19: 'workload.chunk'", "1 to 65536"},
        Bad{"workload: {context: 1e9}\n", "p.yaml:1:21: 'workload.context'", "1 to 16777216"},
        Bad{"kv: {type: fp8}\n", "p.yaml:1:12: 'kv.type'", "f32, bf16"},
        Bad{"placement: {head: devcie}\n", "p.yaml:1:19: 'placement.head'",
            "auto, host, device (perhaps 'device')"},
        Bad{"placement:\n  routed_experts: {share: 1.5}\n",
            "p.yaml:2:27: 'placement.routed_experts.share'", "from 0 to 1"},
        Bad{"placement:\n  routed_experts: {share: .nan}\n",
            "p.yaml:2:27: 'placement.routed_experts.share'", "from 0 to 1"},
        Bad{"placement:\n  routed_experts: {share: 0.5, bytes: 3}\n",
            "p.yaml:2:19: 'placement.routed_experts'", "one of"},
        Bad{"placement: {experts_order: [1, 2, 1]}\n", "p.yaml:1:35: 'placement.experts_order'",
            "expert 1 is named twice"},
        Bad{"placement: {experts_order: [a]}\n", "p.yaml:1:29: 'placement.experts_order'",
            "from 0 to 65535"},
        Bad{"placement: {layers: [5, 2]}\n", "p.yaml:1:21: 'placement.layers'", "comes after"},
        Bad{"placement: {layers: [0, 1000000000]}\n", "p.yaml:1:25: 'placement.layers'", "65535"},
        Bad{"placement: {layers: [0]}\n", "p.yaml:1:21: 'placement.layers'", "[first, last]"},
        Bad{"- a\n- b\n", "p.yaml:1:1:", "expected a map of settings, found a list"},
        Bad{"just words\n", "p.yaml:1:1:", "found 'just words'"},
        Bad{"threads: 1\nthreads: 2\n", "p.yaml:2:1: 'threads'", "already on line 1"},
        Bad{"? [a]\n: b\n", "p.yaml:1:3:", "expected a word as key"},
        Bad{"device: auto\n---\ndevice: none\n", "p.yaml:3:1:", "second document"},
        Bad{"device: auto: 1\n", "p.yaml:1:13:", "YAML syntax"},
        Bad{"device: [auto\n", "p.yaml:", "YAML syntax"},
        Bad{"a: &x 1\nb: *x\n", "p.yaml:1:4:", "anchors"},
        Bad{"device: *x\n", "p.yaml:1:9:", "anchor"},
        Bad{"device: !!python/object:os.system x\n", "p.yaml:1:9:", "tag"}));

// Nine levels of nine aliases would stand for 3.9e8 scalars.
// F91
TEST(Profile, BillionLaughsStopAtTheFirstAnchor) {
  std::string yaml = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'j'; ++c) {
    yaml += fmt::format("{}: &{} [*{},*{},*{},*{},*{},*{},*{},*{},*{}]\n", c, c, c - 1, c - 1,
                        c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1);
  }
  EXPECT_THAT(Fault(yaml), StartsWith("p.yaml:1:"));
}

TEST(Profile, DepthAndSizeAreBounded) {
  EXPECT_THAT(Fault("placement: " + std::string(100, '[')), HasSubstr("deeper than 32"));
  EXPECT_THAT(Fault("placement: " + std::string(100000, '[')), HasSubstr("p.yaml:1:"));
  EXPECT_THAT(Fault("#" + std::string(kMaxYamlBytes, 'x')), HasSubstr("at most 1048576"));
  std::string keys = "memory: {";
  for (int i = 0; i < 5000; ++i) keys += fmt::format("k{}: 1, ", i);
  EXPECT_THAT(Fault(keys + "}"), HasSubstr("more than 256 keys"));
}

// A message must not carry a terminal's control sequences or a megabyte of a key.
TEST(Profile, MessagesQuoteSafely) {
  const std::string text = Fault("\"\\e[31mred\": 1\n");
  EXPECT_EQ(text.find('\x1b'), std::string::npos) << text;
  EXPECT_LT(Fault(std::string(1000, 'k') + ": 1\n").size(), 300u);
}

TEST(Profile, FilesThatAreNotThere) {
  const std::string folder = ::testing::TempDir();
  EXPECT_THAT(test::Refusal([&] { ReadProfile(folder + "absent.yaml"); }, ExitCode::kMissingFile),
              HasSubstr("absent.yaml"));
  test::Refusal([&] { ReadProfile(folder); }, ExitCode::kIo);
  test::Refusal([&] { ReadProfile("/dev/zero"); }, ExitCode::kIo);
}

TEST(Profile, ReadsFilesUpToTheLimit) {
  const std::string file = ::testing::TempDir() + "tandem_profile_test.yaml";
  std::ofstream(file) << "device: none\n";
  EXPECT_EQ(ReadProfile(file).device, "none");
  std::ofstream(file) << std::string(kMaxYamlBytes + 1, '#');
  test::Refusal([&] { ReadProfile(file); }, ExitCode::kConfig);
  std::filesystem::remove(file);
}

// All that is shipped parses and plans, and opens with a comment that says what was measured.
TEST(Profile, ShippedProfiles) {
  const TensorList tensors = ExpectedTensors(test::Tiny(), DType::kBF16);
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(TANDEM_SOURCE_DIR "/profiles")) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    std::ifstream stream(entry.path());
    const std::string text(std::istreambuf_iterator<char>(stream), {});
    EXPECT_THAT(text, AllOf(StartsWith("# "), HasSubstr("measured"))) << entry.path();
    const Profile profile = ReadProfile(entry.path());
    const Plan plan =
        MakePlan(test::Tiny(), tensors, test::GpuMachine(24), profile, Precision::kFast);
    EXPECT_EQ(plan.devices.empty(), profile.device == "none") << entry.path();
  }
  EXPECT_EQ(count, 5);
}

TEST(Profile, PoclCiSplitsTheExperts) {
  const TensorList tensors = ExpectedTensors(test::Tiny(), DType::kBF16);
  const Profile profile = ReadProfile(TANDEM_SOURCE_DIR "/profiles/pocl-ci.yaml");
  const Plan plan =
      MakePlan(test::Tiny(), tensors, test::PoclMachine(2), profile, Precision::kExact);
  for (const LayerPlan& layer : plan.layers) {
    EXPECT_EQ(test::ExpertsOnDevice(layer), layer.moe ? 8 : 0);
  }
  EXPECT_TRUE(plan.layers[1].experts[6].on_device());
}

}  // namespace
}  // namespace tandem
