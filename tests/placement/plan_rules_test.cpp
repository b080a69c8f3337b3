// ctest: unit
// Rules of a profile: what they match, and that plans keep them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_case.h"
#include "placement/plan_input.h"

namespace tandem {
namespace {

using test::Case;
using test::ModelCase;
using test::PlanOf;
using ::testing::HasSubstr;

Rule MakeRule(const std::string& role, Side place, int line) {
  Rule rule;
  rule.role = role;
  rule.place = place;
  rule.line = line;
  return rule;
}

TEST(PlanRules, AreKept) {
  const ModelCase& model = Case("V2-Lite");
  Profile profile;
  Rule attention = MakeRule("attention", Side::kHost, 3);
  attention.layers = {4, 6};
  Rule experts = MakeRule("routed_experts", Side::kDevice, 5);
  experts.layers = {10, 12};
  experts.experts = {{60, 63}, {2, 2}};
  Rule name;
  name.tensors = "model.layers.2?.mlp.shared_experts.*";
  name.place = Side::kHost;
  name.line = 9;
  Rule again = name;  // the later one wins
  again.tensors = "*.21.mlp.shared_experts.up_proj.weight";
  again.place = Side::kDevice;
  profile.rules = {attention, experts, name, again, MakeRule("head", Side::kHost, 12)};
  const Plan plan = PlanOf(model, test::GpuMachine(8), profile);
  ASSERT_EQ(plan.devices.size(), 1u);
  EXPECT_FALSE(plan.head.on_device());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& layer = plan.layers[i];
    if (i >= 4 && i <= 6) {
      EXPECT_FALSE(layer.attention.on_device()) << i;
    }
    if (i >= 20) {
      EXPECT_EQ(layer.shared.on_device(), i == 21) << i;
    }
    for (std::size_t e : {2, 60, 61, 62, 63}) {
      if (i >= 10 && i <= 12) {
        EXPECT_TRUE(layer.experts[e].on_device()) << i << " " << e;
      }
    }
  }
  profile.rules = {MakeRule("router", Side::kDevice, 4)};
  profile.rules[0].layers = {0, 0};  // a dense layer
  EXPECT_THAT(
      test::Refusal([&] { PlanOf(model, test::GpuMachine(8), profile); }, ExitCode::kConfig),
      HasSubstr("matches nothing"));
}

TEST(PlanRules, NameDevices) {
  const ModelCase& model = Case("V2-Lite");
  Profile profile;
  profile.device = "all";
  Rule rule = MakeRule("attention", Side::kDevice, 3);
  rule.device = "small";
  profile.rules = {rule};
  const Plan plan = PlanOf(model, test::Workstation(), profile);
  for (const LayerPlan& layer : plan.layers) {
    ASSERT_TRUE(layer.attention.on_device());
    EXPECT_THAT(plan.devices[static_cast<std::size_t>(layer.attention.index)].name,
                HasSubstr("small"));
  }
}

TEST(PlanRules, GlobsMatchWholeNames) {
  for (const char* yes : {"*", "abc", "a*c", "a?c", "*abc*", "a*b*c", "abc*", "??*"}) {
    EXPECT_TRUE(GlobMatches(yes, "abc")) << yes;
  }
  for (const char* no : {"", "ab", "b*", "a?", "abcd", "*d", "a*b"}) {
    EXPECT_FALSE(GlobMatches(no, "abc")) << no;
  }
  EXPECT_TRUE(GlobMatches("a*a*ab", "aaaaaaab"));
}

}  // namespace
}  // namespace tandem
