// ctest: unit
// What is printed of plans: JSON and back, YAML, differences, explanations.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "invented.h"
#include "memory/error.h"
#include "placement/plan.h"
#include "placement/plan_diff.h"
#include "placement/plan_explain.h"
#include "placement/planner.h"
#include "placement/yaml_tree.h"
#include "real_shapes.h"

namespace tandem {
namespace {

using test::kGiB;
using test::OnDevice;
using test::PlanTiny;
using ::testing::AllOf;
using ::testing::HasSubstr;

struct Planned {
  Config config = test::V2Lite();
  TensorList tensors = ExpectedTensors(config, DType::kBF16);
  Machine machine = test::GpuMachine(8);
  Profile profile;
  Plan plan;
  explicit Planned(const Profile& wanted = {}) : profile(wanted) {
    plan = MakePlan(config, tensors, machine, profile, Precision::kFast);
  }
};

TEST(PlanJson, ReadsBackWhole) {
  for (const std::string device : {"auto", "none"}) {
    Profile profile;
    profile.device = device;
    const Planned planned(profile);
    const std::string json = ToJson(planned.plan);
    EXPECT_EQ(ToJson(ParsePlan(json, "plan.json")), json);
  }
}

// Every value that is not there, or is of another kind, is named.
TEST(PlanJson, DamageIsNamed) {
  const Planned planned;
  const auto whole = nlohmann::json::parse(ToJson(planned.plan));
  const auto refusal = [](const nlohmann::json& json) {
    return test::Refusal([&] { ParsePlan(json.dump(), "old.json"); }, ExitCode::kConfig);
  };
  for (const auto& [key, value] : whole.items()) {
    auto without = whole;
    without.erase(key);
    EXPECT_THAT(refusal(without), AllOf(HasSubstr("old.json"), HasSubstr(key)));
    if (value.is_object()) {
      for (const auto& [inner, unused] : value.items()) {
        auto wrong = whole;
        wrong[key][inner] = nullptr;
        if (inner == "memory_bytes") continue;  // a sum of others
        EXPECT_THAT(refusal(wrong), HasSubstr(key + "." + inner));
      }
    }
  }
  auto wrong = whole;
  wrong["layers"][3]["routed_experts"]["host"] = {{5, 2}};
  EXPECT_THAT(refusal(wrong), HasSubstr("layers[3].routed_experts.host[0]"));
  EXPECT_THAT(test::Refusal([] { ParsePlan("{\"a\": ", "x"); }, ExitCode::kConfig),
              HasSubstr("JSON"));
}

TEST(PlanYaml, IsTheJson) {
  const Planned planned;
  const auto json = nlohmann::json::parse(ToJson(planned.plan));
  const YamlValue yaml = ParseYaml(ToYaml(planned.plan), "plan.yaml");
  std::vector<std::string> keys;
  for (const auto& entry : yaml.map) {
    keys.push_back(entry.key);
    if (entry.key == "kv_blocks") {
      EXPECT_EQ(entry.value.scalar, json["kv_blocks"].dump());
    }
    if (entry.key == "layers") {
      EXPECT_EQ(entry.value.list.size(), json["layers"].size());
    }
    if (entry.key == "items") {
      ASSERT_EQ(entry.value.list.size(), json["items"].size());
      EXPECT_EQ(entry.value.list[1].map[0].value.scalar, json["items"][1]["what"]);
      EXPECT_EQ(entry.value.list[1].map[3].value.scalar, json["items"][1]["bytes"].dump());
    }
  }
  EXPECT_EQ(keys.size(), json.size());
}

TEST(PlanText, PredictionsAndLimitsAreShown) {
  const Planned planned;
  const std::string text = ToText(planned.plan);
  std::printf("%s", text.c_str());
  EXPECT_THAT(text, AllOf(HasSubstr("first token"), HasSubstr("tokens/s"), HasSubstr("limited by"),
                          HasSubstr("rates assumed, routing uniform"), HasSubstr("on device")));
}

TEST(PlanDiff, TheSamePlanHasNoDifference) {
  const Planned planned;
  const PlanDiff diff = Diff(planned.plan, planned.plan);
  EXPECT_TRUE(diff.empty());
  EXPECT_THAT(ToText(diff), HasSubstr("alike"));
}

TEST(PlanDiff, NamesSettingsBytesMovesAndSpeeds) {
  Profile before;
  before.device = "0";
  before.attention = before.dense = before.shared_experts = before.head = Side::kDevice;
  before.router = Side::kDevice;
  before.experts = Profile::Experts::kShare;
  before.chunk = 256;
  Profile after = before;
  after.attention = Side::kHost;
  after.experts_share = 0.125;
  after.chunk = 128;
  const Plan a = Planned(before).plan;
  const Plan b = Planned(after).plan;
  const PlanDiff diff = Diff(a, b);
  std::printf("%s", ToText(diff).c_str());
  EXPECT_THAT(ToText(diff), AllOf(HasSubstr("256 -> 128"), HasSubstr("attention and KV cache"),
                                  HasSubstr("Invented GPU 8G (0) -> host: 27 (layers 0-26)"),
                                  HasSubstr("host -> Invented GPU 8G (0): 208 (layers 1-26)"),
                                  HasSubstr("decode")));
  // The differences of bytes sum to those of the places.
  std::int64_t sum = 0;
  for (const PlanDiff::Bytes& line : diff.bytes) {
    sum += static_cast<std::int64_t>(line.after) - static_cast<std::int64_t>(line.before);
  }
  EXPECT_EQ(sum, static_cast<std::int64_t>(b.host_bytes + b.DeviceBytes(0)) -
                     static_cast<std::int64_t>(a.host_bytes + a.DeviceBytes(0)));
  const auto json = nlohmann::json::parse(ToJson(diff));
  EXPECT_EQ(json["moves"].size(), diff.moves.size());
}

TEST(PlanDiff, OtherModelsAreRefused) {
  const Planned planned;
  Plan other = planned.plan;
  other.layers.pop_back();
  EXPECT_THAT(test::Refusal([&] { Diff(planned.plan, other); }, ExitCode::kConfig),
              HasSubstr("different models"));
}

TEST(PlanExplain, EveryByteHasAReason) {
  const Planned planned;
  const Explanation explanation =
      Explain(planned.config, planned.tensors, planned.machine, planned.profile, {}, planned.plan);
  std::printf("%s", ToText(explanation).c_str());
  std::uint64_t sum = 0, weights = 0;
  for (const auto& group : explanation.groups) {
    EXPECT_FALSE(group.why.empty()) << group.what;
    sum += group.bytes;
  }
  for (const PlanItem& item : planned.plan.items) {
    const bool other =
        item.what == "scratch" || item.what == "program" || item.what == "host copies of norms";
    if (!other) weights += item.bytes;
  }
  EXPECT_EQ(sum, weights);
  // More memory on the device and faster memory on the host do no harm.
  ASSERT_EQ(explanation.what_ifs.size(), 2u);
  for (const auto& what_if : explanation.what_ifs) {
    EXPECT_GE(what_if.prediction.decode_tokens_per_s,
              planned.plan.prediction.decode_tokens_per_s * (1 - 1e-9))
        << what_if.change;
  }
  EXPECT_THAT(explanation.what_ifs[0].change, HasSubstr("1 GiB more"));
  const auto json = nlohmann::json::parse(ToJson(explanation));
  EXPECT_EQ(json["groups"].size(), explanation.groups.size());
}

TEST(PlanExplain, DemandsAreNamed) {
  Profile profile;
  profile.attention = Side::kHost;
  const Planned planned(profile);
  const Explanation explanation =
      Explain(planned.config, planned.tensors, planned.machine, planned.profile, {}, planned.plan);
  for (const auto& group : explanation.groups) {
    if (group.what == "attention and KV cache") {
      EXPECT_EQ(group.why, "the profile says so");
    }
  }
}

TEST(PlanText, JsonHoldsEveryLayerAndPlace) {
  Profile profile = OnDevice("0", 0.125);
  profile.threads = 2;
  profile.experts_order = {0, 1, 5, 31};
  const Plan plan = PlanTiny(test::PoclMachine(), profile);
  const auto json = nlohmann::json::parse(ToJson(plan));
  ASSERT_EQ(json["layers"].size(), 5u);
  EXPECT_EQ(json["layers"][0]["dense"], "device0");
  const auto& experts = json["layers"][3]["routed_experts"];
  EXPECT_EQ(experts["device0"].dump(), "[[0,1],[5,5],[31,31]]");
  EXPECT_EQ(experts["host"].dump(), "[[2,4],[6,30]]");
  EXPECT_EQ(json["host"]["bytes"], plan.host_bytes);
  EXPECT_EQ(json["devices"][0]["bytes"], plan.DeviceBytes(0));
  EXPECT_EQ(json["devices"][0]["threads"], 2);
  std::uint64_t sum = 0;
  for (const auto& item : json["items"]) sum += item["bytes"].get<std::uint64_t>();
  EXPECT_EQ(sum, plan.host_bytes + plan.DeviceBytes(0));
}

TEST(PlanText, TheTableIsAligned) {
  Profile profile = OnDevice("0", 0.5);
  profile.threads = 2;
  const std::string text = ToText(PlanTiny(test::PoclMachine(), profile));
  std::printf("%s", text.c_str());
  std::istringstream lines(text.substr(0, text.find("\n\n")));
  std::string first;
  std::getline(lines, first);
  for (std::string line; std::getline(lines, line);) EXPECT_EQ(line.size(), first.size()) << line;
  EXPECT_THAT(text, AllOf(HasSubstr("threads: node 0: 2 (cores 0-1)"), HasSubstr("scratch"),
                          HasSubstr("68 blocks")));
}

}  // namespace
}  // namespace tandem
