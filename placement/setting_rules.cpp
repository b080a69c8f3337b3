#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "placement/nearest.h"
#include "placement/profile_check.h"
#include "placement/setting_forms.h"

namespace tandem::setting {
namespace {

using Kind = YamlValue::Kind;

constexpr std::array<std::string_view, 6> kRoles{"attention",      "dense", "router",
                                                 "shared_experts", "head",  "routed_experts"};
constexpr std::array<std::string_view, 5> kRuleKeys{"role", "layers", "experts", "tensors",
                                                    "place"};
constexpr std::array<std::string_view, 2> kPlaces{"host", "device"};

// One number is a range of itself.
std::pair<std::int64_t, std::int64_t> NumberOrRange(const Field& field, std::int64_t most) {
  if (field.value.kind == Kind::kList) return Range(field, most);
  const std::int64_t number = Integer(field, 0, most, " or [first, last]");
  return {number, number};
}

YamlValue PrintNumberOrRange(std::int64_t first, std::int64_t last) {
  return first == last ? PrintNumber(first) : PrintRange(first, last);
}

void ReadExperts(const Field& field, Rule& rule) {
  if (field.value.kind != Kind::kList || field.value.list.empty()) {
    Expected(field, "a list of expert ids and [first, last] ranges");
  }
  for (std::size_t i = 0; i < field.value.list.size(); ++i) {
    const auto [first, last] = NumberOrRange(Item(field, i), ProfileLimits::kExperts - 1);
    rule.experts.emplace_back(static_cast<int>(first), static_cast<int>(last));
  }
}

// "host", "device", or a device by index or a part of its name.
void ReadPlace(const Field& field, Rule& rule) {
  const std::string& word = Text(field, "host, device, or a device's index or name");
  rule.place = word == "host" ? Side::kHost : Side::kDevice;
  if (word == "host" || word == "device") return;
  const std::string nearest = NearestKey(word, kPlaces);
  if (!nearest.empty() || word == "auto") {
    Expected(field, fmt::format("host, device, or a device's index or name{}",
                                nearest.empty() ? "" : " (perhaps '" + nearest + "')"));
  }
  rule.device = word;
}

void ReadKey(const Field& field, std::string_view key, Rule& rule) {
  if (key == "role") {
    rule.role = kRoles[WordIndex(field, kRoles)];
  } else if (key == "layers") {
    rule.layers = NumberOrRange(field, ProfileLimits::kLayers - 1);
  } else if (key == "experts") {
    ReadExperts(field, rule);
  } else if (key == "tensors") {
    rule.tensors = Text(field, "a pattern over tensor names, such as model.layers.3.*");
  } else {
    ReadPlace(field, rule);
  }
}

Rule ReadRule(const Field& field) {
  CheckKeys(field, kRuleKeys);
  Rule rule;
  rule.line = field.value.line;
  bool placed = false;
  for (const YamlValue::Entry& entry : field.value.map) {
    ReadKey(Entry(field, entry), entry.key, rule);
    placed = placed || entry.key == "place";
  }
  if (!placed) Fail(field, "no 'place': expected host, device, or a device's index or name");
  if (field.value.map.size() == 1) {
    Fail(field, "no condition: expected one or more of role, layers, experts, tensors");
  }
  if (!rule.experts.empty() && !rule.role.empty() && rule.role != "routed_experts") {
    Fail(field,
         fmt::format("'experts' are of the role routed_experts, found role '{}'", rule.role));
  }
  return rule;
}

YamlValue PrintRule(const Rule& rule) {
  std::vector<std::pair<std::string, YamlValue>> entries;
  if (!rule.role.empty()) entries.emplace_back("role", YamlScalar(rule.role));
  if (rule.layers) {
    entries.emplace_back("layers", PrintNumberOrRange(rule.layers->first, rule.layers->second));
  }
  std::vector<YamlValue> experts;
  for (const auto& [first, last] : rule.experts) {
    experts.push_back(PrintNumberOrRange(first, last));
  }
  if (!experts.empty()) entries.emplace_back("experts", YamlList(std::move(experts)));
  if (!rule.tensors.empty()) entries.emplace_back("tensors", YamlScalar(rule.tensors));
  const std::string place = rule.place == Side::kHost ? "host" : "device";
  entries.emplace_back("place", YamlScalar(rule.device.empty() ? place : rule.device));
  return YamlMap(std::move(entries));
}

}  // namespace

void RulesForm::Read(const Field& field, Profile& profile) {
  profile.rules.clear();
  if (field.value.kind == Kind::kNull) return;
  if (field.value.kind != Kind::kList) Expected(field, "a list of rules");
  for (std::size_t i = 0; i < field.value.list.size(); ++i) {
    profile.rules.push_back(ReadRule(Item(field, i)));
  }
}

YamlValue RulesForm::Print(const Profile& profile) {
  std::vector<YamlValue> items;
  for (const Rule& rule : profile.rules) items.push_back(PrintRule(rule));
  return YamlList(std::move(items));
}

std::string RulesForm::Schema() {
  const auto one_or_range = [](std::int64_t most) {
    return AnyOf({IntegerSchema(0, most), RangeSchema(most)});
  };
  const std::string place =
      R"({"anyOf":[{"type":"string","minLength":1},{"type":"integer","minimum":0}]})";
  return fmt::format(
      R"({{"type":["array","null"],"items":{{"type":"object","properties":{{"role":{},)"
      R"("layers":{},"experts":{{"type":"array","minItems":1,"items":{}}},)"
      R"("tensors":{{"type":"string","minLength":1}},"place":{}}},)"
      R"("required":["place"],"minProperties":2,"additionalProperties":false}}}})",
      WordsSchema(kRoles), one_or_range(ProfileLimits::kLayers - 1),
      one_or_range(ProfileLimits::kExperts - 1), place);
}

}  // namespace tandem::setting
