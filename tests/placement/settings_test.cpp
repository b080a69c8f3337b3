// ctest: unit
#include "placement/settings.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using Json = nlohmann::json;

// Says every setting, none of them the default.
constexpr const char* kEverything = R"(device: [0, "Intel(R) Arc: #2"]
memory:
  device: 22 GiB
  host: 200 GiB
  devices: {0: 20 GiB, "GPU, with: marks": {reserve: 2 GiB}}
  nodes: {0: 96 GiB, 1: {reserve: 1 KiB}}
threads: {0: 30, 1: 28}
device_threads: 2
hand_over: events
deferral: on
step_ahead: on
workload: {for: agent, context: 50000, least_context: 700, sequences: 3, prompt_tokens: 300,
           answer_tokens: 200, chunk: 128}
activations: {type: bf16, device: f8}
kv: {type: bf16, place: host}
placement:
  attention: device
  dense: host
  shared_experts: device
  router: host
  head: device
  routed_experts: {share: 0.123}
  experts: {policy: hot, statistics: /tmp/odd name's.json}
  experts_order: [7, 0, 12]
  layers: [1, 30]
  prefill_experts: stream
  stream_memory: locked
  expert_cache: 2 GiB
rules:
  - {role: head, place: host}
  - {experts: [7, [10, 12]], layers: 5, place: device}
  - {tensors: "*.mlp.gate.weight", layers: [2, 3], place: NVIDIA}
made_for: {machine: 0123456789abcdef, model: "1234567890123456"}
)";

TEST(Settings, NamesFollowFromThePath) {
  const Setting& context = *FindSetting("workload.context");
  EXPECT_EQ(FlagOf(context), "--workload-context");
  EXPECT_EQ(VariableOf(context), "TANDEM_WORKLOAD_CONTEXT");
  EXPECT_EQ(FlagOf(*FindSetting("placement.experts.policy")), "--placement-experts-policy");
  EXPECT_EQ(FindSetting("workload"), nullptr);
  EXPECT_EQ(NamesBelow("kv"), (std::vector<std::string_view>{"type", "place"}));
  EXPECT_EQ(NamesBelow("placement.experts"),
            (std::vector<std::string_view>{"policy", "statistics"}));
}

TEST(Settings, NoTwoShareAName) {
  std::set<std::string> names;
  for (const Setting& setting : Settings()) {
    EXPECT_TRUE(names.insert(FlagOf(setting)).second) << setting.path;
    EXPECT_TRUE(names.insert(VariableOf(setting)).second) << setting.path;
    if (!setting.alias.empty()) {
      EXPECT_TRUE(names.insert(std::string(setting.alias)).second) << setting.path;
    }
    EXPECT_LE(setting.help.size(), 80U) << setting.path;
  }
}

TEST(Settings, DefaultsReadBackAsThemselves) {
  for (const Setting& setting : Settings()) {
    Profile profile = ParseProfile(kEverything, "p.yaml");
    Reset(setting, profile);
    EXPECT_EQ(FlowText(setting.print(profile)), FlowText(setting.print(Profile{}))) << setting.path;
  }
  EXPECT_EQ(SettingsYaml(Profile{}), "");
}

// Each value is printed as YAML that means the same; the text says every setting that was said.
TEST(Settings, YamlReadsBackAsTheSameProfile) {
  const Profile first = ParseProfile(kEverything, "p.yaml");
  const std::string yaml = SettingsYaml(first);
  const Profile again = ParseProfile(yaml, "q.yaml");
  int told = 0;
  for (const Setting& setting : Settings()) {
    EXPECT_EQ(FlowText(setting.print(again)), FlowText(setting.print(first))) << yaml;
    EXPECT_NE(FlowText(setting.print(first)), FlowText(setting.print(Profile{})))
        << setting.path << ": the test says nothing of it";
    told += again.origins.contains(std::string(setting.path)) ? 1 : 0;
  }
  EXPECT_EQ(told, static_cast<int>(Settings().size()));
  EXPECT_EQ(SettingsYaml(again), yaml);
  EXPECT_EQ(again.experts_share, 0.123);
  EXPECT_EQ(again.statistics, "/tmp/odd name's.json");
  EXPECT_EQ(again.model_fingerprint, "1234567890123456");
  EXPECT_EQ(again.device_budgets.at("GPU, with: marks").reserve, std::uint64_t{2} << 30);
}

TEST(Settings, AreShownWithTheirOrigins) {
  const Profile profile = ResolveProfile(
      "", std::vector<GivenSetting>{{"workload.for", "agent", "TANDEM_WORKLOAD_FOR"},
                                    {"workload.sequences", "1", "--workload-sequences"}});
  const std::string text = SettingsText(profile, /*origins=*/true);
  EXPECT_THAT(text, testing::ContainsRegex("workload.sequences +1 +--workload-sequences\n"));
  EXPECT_THAT(text, testing::ContainsRegex(
                        "workload.context +32768 +workload.for: agent .TANDEM_WORKLOAD_FOR.\n"));
  EXPECT_THAT(text, testing::ContainsRegex("kv.type +auto +default\n"));
  const Json json = Json::parse(SettingsJson(profile));
  EXPECT_EQ(json.size(), Settings().size());
  EXPECT_EQ(json["workload.context"]["value"], 32768);
  EXPECT_EQ(json["workload.sequences"]["origin"], "--workload-sequences");
  EXPECT_EQ(json["device"]["value"], "auto");
}

// profiles/schema.json is what `tandem config schema` prints: write it anew when this fails.
TEST(Settings, TheCommittedSchemaIsCurrent) {
  EXPECT_EQ(test::ReadText(TANDEM_SOURCE_DIR "/profiles/schema.json"), SettingsSchema());
}

TEST(Settings, TheSchemaKnowsEverySetting) {
  const Json schema = Json::parse(SettingsSchema());
  for (const Setting& setting : Settings()) {
    std::string at = "/properties/" + std::string(setting.path);
    for (std::size_t dot = at.find('.'); dot != std::string::npos; dot = at.find('.')) {
      at.replace(dot, 1, "/properties/");
    }
    const Json::json_pointer pointer(at);
    ASSERT_TRUE(schema.contains(pointer)) << at;
    EXPECT_EQ(schema[pointer]["description"], setting.help);
  }
  EXPECT_EQ(schema["properties"]["workload"]["properties"]["context"]["maximum"], 1 << 24);
  EXPECT_EQ(schema["additionalProperties"], false);
}

// profiles/README.md is the reference: it names every key and every short flag.
TEST(Settings, TheReferenceNamesEverySetting) {
  const std::string text = test::ReadText(TANDEM_SOURCE_DIR "/profiles/README.md");
  for (const Setting& setting : Settings()) {
    EXPECT_NE(text.find(fmt::format("| `{}` |", setting.path)), std::string::npos) << setting.path;
    if (setting.alias.empty()) continue;
    EXPECT_NE(text.find(fmt::format("`{}`", setting.alias)), std::string::npos) << setting.alias;
  }
}

}  // namespace
}  // namespace tandem
