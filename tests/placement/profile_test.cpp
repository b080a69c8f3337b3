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
    EXPECT_EQ(profile.max_sequences, 4) << yaml;
    EXPECT_TRUE(profile.origins.empty()) << yaml;
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

TEST(Profile, DevicesNodesAndRules) {
  const Profile p = ParseProfile(
      "device: [0, NVIDIA L4]\n"
      "memory:\n"
      "  devices: {0: {budget: 22 GiB}, NVIDIA: {reserve: 2 GiB}, 2: 5 GiB}\n"
      "  nodes: {0: 96 GiB, 1: {reserve: 0}}\n"
      "threads: {0: 16, 1: 0}\n"
      "workload: {least_context: 100, prompt_tokens: 512, answer_tokens: 64, chunk: auto}\n"
      "kv: {type: auto, place: host}\n"
      "activations: {type: bf16, device: f8}\n"
      "placement:\n"
      "  experts: {policy: hot, statistics: stats.json}\n"
      "  prefill_experts: stream\n"
      "rules:\n"
      "  - {role: attention, layers: [0, 3], place: 1}\n"
      "  - {experts: [7, [10, 12]], layers: 5, place: device}\n"
      "  - {tensors: '*.mlp.gate.weight', place: NVIDIA}\n"
      "made_for: {machine: 0123456789abcdef, model: fedcba9876543210}\n",
      "folder/p.yaml");
  EXPECT_EQ(p.device, "0,NVIDIA L4");
  ASSERT_EQ(p.device_budgets.size(), 3U);
  EXPECT_EQ(p.device_budgets.at("0").bytes, 22 * test::kGiB);
  EXPECT_EQ(p.device_budgets.at("NVIDIA").reserve, 2 * test::kGiB);
  EXPECT_FALSE(p.device_budgets.at("NVIDIA").bytes);
  EXPECT_EQ(p.device_budgets.at("2").bytes, 5 * test::kGiB);
  EXPECT_EQ(p.node_budgets.at(0).bytes, 96 * test::kGiB);
  EXPECT_EQ(p.node_budgets.at(1).reserve, 0U);
  EXPECT_FALSE(p.threads);
  EXPECT_EQ(p.node_threads, (std::map<int, int>{{0, 16}, {1, 0}}));
  EXPECT_EQ(p.least_context, 100);
  EXPECT_EQ(p.prompt_tokens, 512);
  EXPECT_EQ(p.answer_tokens, 64);
  EXPECT_FALSE(p.chunk);
  EXPECT_FALSE(p.kv_type);
  EXPECT_EQ(p.kv_place, Side::kHost);
  EXPECT_EQ(p.activation_type, DType::kBF16);
  EXPECT_TRUE(p.f8_on_devices);
  EXPECT_EQ(p.expert_policy, Profile::ExpertPolicy::kHot);
  EXPECT_EQ(p.statistics, "folder/stats.json");
  EXPECT_EQ(p.prefill_experts, Profile::PrefillExperts::kStream);
  ASSERT_EQ(p.rules.size(), 3U);
  EXPECT_EQ(p.rules[0].role, "attention");
  EXPECT_EQ(p.rules[0].layers, std::make_pair(std::int64_t{0}, std::int64_t{3}));
  EXPECT_EQ(p.rules[0].place, Side::kDevice);
  EXPECT_EQ(p.rules[0].device, "1");
  EXPECT_EQ(p.rules[0].line, 13);
  EXPECT_EQ(p.rules[1].experts, (std::vector<std::pair<int, int>>{{7, 7}, {10, 12}}));
  EXPECT_EQ(p.rules[1].device, "");
  EXPECT_EQ(p.rules[2].tensors, "*.mlp.gate.weight");
  EXPECT_EQ(p.rules[2].device, "NVIDIA");
  EXPECT_EQ(p.machine_fingerprint, "0123456789abcdef");
  EXPECT_EQ(p.model_fingerprint, "fedcba9876543210");
  EXPECT_EQ(p.origins.at("kv.place"), "folder/p.yaml:7:25");
}

TEST(Profile, PresetsStandBelowWhatIsSaid) {
  const Profile chat = ParseProfile("workload: {for: chat}", "p.yaml");
  EXPECT_EQ(chat.context, 8192);
  EXPECT_EQ(chat.origins.at("workload.context"), "workload.for: chat (p.yaml:1:17)");
  const Profile batch = ParseProfile("workload: {sequences: 8, for: batch}", "p.yaml");
  EXPECT_EQ(batch.use, Use::kBatch);
  EXPECT_EQ(batch.max_sequences, 8);
  EXPECT_EQ(batch.origins.at("workload.sequences"), "p.yaml:1:23");
  for (const char* use : {"chat", "agent", "long", "batch"}) {
    const Profile p = ParseProfile(fmt::format("workload: {{for: {}}}", use), "p.yaml");
    EXPECT_GE(p.context, p.max_sequences * (p.prompt_tokens + p.answer_tokens)) << use;
  }
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
            "expected a whole number from 1 to 4096, a number for each node, or auto, found "
            "'many'"},
        Bad{"threads: '4'\n", "p.yaml:1:10: 'threads'", "found '4'"},
        Bad{"threads: 4.5\n", "p.yaml:1:10: 'threads'", "found '4.5'"},
        Bad{"threads: 0\n", "p.yaml:1:10: 'threads'", "from 1 to 4096"},
        Bad{"threads: 99999999999999999999\n", "p.yaml:1:10: 'threads'", "from 1 to 4096"},
        Bad{"threads:\n", "p.yaml:1:1: 'threads'", "found nothing"},
        Bad{"threads: [1]\n", "p.yaml:1:10: 'threads'", "found a list"},
        Bad{"device_threads: -1\n", "p.yaml:1:17: 'device_threads'", "from 1 to 4096"},
        Bad{"device: []\n", "p.yaml:1:9: 'device'", "found a list"},
        Bad{"device: [0, none]\n", "p.yaml:1:9: 'device'", "'none' stands alone"},
        Bad{"device: 0,\n", "p.yaml:1:9: 'device'", "a name in the list is empty"},
        Bad{"device: '1,1'\n", "p.yaml:1:9: 'device'", "'1' is named twice"},
        Bad{"threads: {0: x}\n", "p.yaml:1:14: 'threads.0'", "from 0 to 4096"},
        Bad{"threads: {zero: 1}\n", "p.yaml:1:11: 'threads (node)'", "found 'zero'"},
        Bad{"threads: {}\n", "p.yaml:1:10: 'threads'", "at least one node"},
        Bad{"memory: {devices: {0: {budget: 1 GiB, reserve: 1 GiB}}}\n",
            "p.yaml:1:23: 'memory.devices.0'", "one of 'budget' and 'reserve'"},
        Bad{"memory: {devices: {0: {reserv: 1 GiB}}}\n", "p.yaml:1:24: 'reserv'",
            "did you mean 'reserve'?"},
        Bad{"memory: {devices: 3 GiB}\n", "p.yaml:1:19: 'memory.devices'", "expected a map"},
        Bad{"memory: {nodes: {-1: 3 GiB}}\n", "p.yaml:1:18: 'memory.nodes (node)'", "from 0"},
        Bad{"workload: {for: chatt}\n", "p.yaml:1:17: 'workload.for'", "perhaps 'chat'"},
        Bad{"workload: {prompt_tokens: 0}\n", "p.yaml:1:27: 'workload.prompt_tokens'", "from 1"},
        Bad{"workload: {for: long, context: 4096}\n", "p.yaml:1:32: 'workload.context'",
            "4096 tokens do not hold one request of 65536 + 1024"},
        Bad{"workload: {least_context: 9000}\n", "p.yaml:1:27: 'workload.least_context'",
            "9000 is more than the context, 4096 (default)"},
        Bad{"kv: {place: gpu}\n", "p.yaml:1:13: 'kv.place'", "auto, host, device"},
        Bad{"placement: {prefill_experts: device}\n", "p.yaml:1:30: 'placement.prefill_experts'",
            "auto, host, stream"},
        Bad{"placement: {experts: {polcy: hot}}\n", "p.yaml:1:23: 'polcy'",
            "did you mean 'policy'?"},
        Bad{"placement: {experts: hot}\n", "p.yaml:1:22: 'placement.experts'", "expected a map"},
        Bad{"workload.context: 5\n", "p.yaml:1:1: 'workload.context'", "unknown key"},
        Bad{"rules: {role: head}\n", "p.yaml:1:8: 'rules'", "expected a list of rules"},
        Bad{"rules: [{place: host}]\n", "p.yaml:1:9: 'rules[0]'", "no condition"},
        Bad{"rules: [{role: head}]\n", "p.yaml:1:9: 'rules[0]'", "no 'place'"},
        Bad{"rules:\n  - {role: head, place: hots}\n", "p.yaml:2:25: 'rules[0].place'",
            "perhaps 'host'"},
        Bad{"rules: [{rol: head, place: host}]\n", "p.yaml:1:10: 'rol'", "did you mean 'role'?"},
        Bad{"rules: [{role: heads, place: host}]\n", "p.yaml:1:16: 'rules[0].role'",
            "perhaps 'head'"},
        Bad{"rules: [{layers: [3, 1], place: host}]\n", "p.yaml:1:18: 'rules[0].layers'",
            "comes after"},
        Bad{"rules: [{experts: 5, place: host}]\n", "p.yaml:1:19: 'rules[0].experts'",
            "a list of expert ids"},
        Bad{"rules: [{experts: [70000], place: host}]\n", "p.yaml:1:20: 'rules[0].experts[0]'",
            "from 0 to 65535"},
        Bad{"rules: [{role: head, experts: [1], place: host}]\n", "p.yaml:1:9: 'rules[0]'",
            "routed_experts"},
        Bad{"extends: [a]\n", "p.yaml:1:10: 'extends'", "found a list"},
        Bad{"extend: none\n", "p.yaml:1:1: 'extend'", "did you mean 'extends'?"},
        Bad{"made_for: {machine: [1]}\n", "p.yaml:1:21: 'made_for.machine'", "found a list"},
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
        Bad{"placement: {layers: [5, 2]}\n", "p.yaml:1:21: 'placement.layers'",
            "comes after the last"},
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
