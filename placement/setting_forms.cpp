#include "placement/setting_forms.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <set>
#include <vector>

#include "placement/nearest.h"
#include "placement/profile_check.h"

namespace tandem::setting {
namespace {

using Kind = YamlValue::Kind;

constexpr std::array<std::string_view, 5> kUses{"any", "chat", "agent", "long", "batch"};
constexpr std::array<std::string_view, 6> kKvTypes{"auto", "f32", "bf16", "f16", "q8_0", "f8"};
constexpr std::array<std::string_view, 3> kActivations{kAutoWord, "f32", "bf16"};
constexpr std::array<std::string_view, 3> kSides{"auto", "host", "device"};
constexpr std::array<std::string_view, 2> kBudgetKeys{"budget", "reserve"};
constexpr std::array<std::string_view, 2> kShareKeys{"share", "bytes"};

DType TypeNamed(std::string_view word) {
  if (word == "q8_0") return DType::kQ8_0;
  if (word == "f8") return DType::kF8E4M3;
  return word == "f32" ? DType::kF32 : word == "bf16" ? DType::kBF16 : DType::kF16;
}

YamlValue PrintType(DType type) {
  if (type == DType::kQ8_0) return YamlScalar("q8_0");
  if (type == DType::kF8E4M3) return YamlScalar("f8");
  return YamlScalar(type == DType::kF32 ? "f32" : type == DType::kBF16 ? "bf16" : "f16");
}

// Only an index, a part of a name, or one of the words may stand in a list of devices.
void CheckDevices(const Field& field, const std::vector<std::string>& devices) {
  std::set<std::string> seen;
  for (const std::string& device : devices) {
    if (device.empty()) Fail(field, "a name in the list is empty");
    const bool alone = device == "auto" || device == "none" || device == "all";
    if (alone && devices.size() > 1) Fail(field, Quoted(device) + " stands alone");
    if (!seen.insert(device).second) Fail(field, Quoted(device) + " is named twice");
  }
}

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else if (c != ' ' || !parts.back().empty()) {
      parts.back() += c;
    }
  }
  return parts;
}

MemoryBudget Budget(const Field& field) {
  if (field.value.kind != Kind::kMap) {
    return {Bytes(field, kLeastBudget, ", or {reserve: 2 GiB}"), std::nullopt};
  }
  CheckKeys(field, kBudgetKeys);
  if (field.value.map.size() != 1) Fail(field, "expected one of 'budget' and 'reserve'");
  const YamlValue::Entry& entry = field.value.map.front();
  if (entry.key == "budget") return {Bytes(Entry(field, entry), kLeastBudget), std::nullopt};
  return {std::nullopt, Bytes(Entry(field, entry), 0)};
}

YamlValue PrintBudget(const MemoryBudget& budget) {
  if (budget.bytes) return PrintBytes(*budget.bytes);
  return YamlMap({{"reserve", PrintBytes(budget.reserve.value_or(0))}});
}

std::string BudgetsSchema() {
  const std::string map =
      fmt::format(R"({{"type":"object","properties":{{"budget":{},"reserve":{}}},)"
                  R"("additionalProperties":false,"minProperties":1,"maxProperties":1}})",
                  BytesSchema(kLeastBudget), BytesSchema(0));
  return fmt::format(R"({{"type":["object","null"],"additionalProperties":{}}})",
                     AnyOf({BytesSchema(kLeastBudget), map}));
}

// The OS index of a node, which is a map's key.
int NodeIndex(const Field& field, const YamlValue::Entry& entry) {
  constexpr int kMostNodes = 1024;
  YamlValue key = YamlScalar(entry.key);
  key.line = entry.line;
  key.column = entry.column;
  key.source = entry.value.source;
  return static_cast<int>(Integer({key, field.path + " (node)"}, 0, kMostNodes - 1));
}

bool Absent(const Field& field) {
  if (field.value.kind == Kind::kNull) return true;  // "nodes:" with its lines commented out
  if (field.value.kind != Kind::kMap) Expected(field, "a map");
  return false;
}

}  // namespace

void DeviceForm::Read(const Field& field, Profile& profile) {
  const std::string what = "auto, none, all, an index, a part of a device's name, or a list";
  if (field.value.kind != Kind::kList) {
    CheckDevices(field, Split(Text(field, what)));
    profile.device = field.value.scalar;
    return;
  }
  std::vector<std::string> devices;
  for (std::size_t i = 0; i < field.value.list.size(); ++i) {
    devices.push_back(Text(Item(field, i), "an index or a part of a device's name"));
  }
  if (devices.empty()) Expected(field, what);
  CheckDevices(field, devices);
  profile.device = fmt::format("{}", fmt::join(devices, ","));
}

YamlValue DeviceForm::Print(const Profile& profile) {
  const std::vector<std::string> devices = Split(profile.device);
  if (devices.size() == 1) return YamlScalar(profile.device);
  std::vector<YamlValue> items;
  for (const std::string& device : devices) items.push_back(YamlScalar(device));
  return YamlList(std::move(items));
}

std::string DeviceForm::Schema() {
  const std::string one =
      AnyOf({R"({"type":"string","minLength":1})", R"({"type":"integer","minimum":0})"});
  return AnyOf({one, fmt::format(R"({{"type":"array","items":{},"minItems":1}})", one)});
}

void DeviceBudgetsForm::Read(const Field& field, Profile& profile) {
  profile.device_budgets.clear();
  if (Absent(field)) return;
  for (const YamlValue::Entry& entry : field.value.map) {
    if (entry.key.empty()) Fail(field, "the name of a device is empty");
    profile.device_budgets[entry.key] = Budget(Entry(field, entry));
  }
}

YamlValue DeviceBudgetsForm::Print(const Profile& profile) {
  std::vector<std::pair<std::string, YamlValue>> entries;
  for (const auto& [name, budget] : profile.device_budgets) {
    entries.emplace_back(name, PrintBudget(budget));
  }
  return YamlMap(std::move(entries));
}

std::string DeviceBudgetsForm::Schema() { return BudgetsSchema(); }

void NodeBudgetsForm::Read(const Field& field, Profile& profile) {
  profile.node_budgets.clear();
  if (Absent(field)) return;
  for (const YamlValue::Entry& entry : field.value.map) {
    profile.node_budgets[NodeIndex(field, entry)] = Budget(Entry(field, entry));
  }
}

YamlValue NodeBudgetsForm::Print(const Profile& profile) {
  std::vector<std::pair<std::string, YamlValue>> entries;
  for (const auto& [node, budget] : profile.node_budgets) {
    entries.emplace_back(std::to_string(node), PrintBudget(budget));
  }
  return YamlMap(std::move(entries));
}

std::string NodeBudgetsForm::Schema() { return BudgetsSchema(); }

void ThreadsForm::Read(const Field& field, Profile& profile) {
  profile.threads.reset();
  profile.node_threads.clear();
  if (IsWord(field.value, kAutoWord)) return;
  if (field.value.kind != Kind::kMap) {
    profile.threads = static_cast<int>(
        Integer(field, 1, ProfileLimits::kThreads, ", a number for each node, or auto"));
    return;
  }
  if (field.value.map.empty()) Expected(field, "a number of threads for at least one node");
  for (const YamlValue::Entry& entry : field.value.map) {
    const std::int64_t threads = Integer(Entry(field, entry), 0, ProfileLimits::kThreads);
    profile.node_threads[NodeIndex(field, entry)] = static_cast<int>(threads);
  }
}

YamlValue ThreadsForm::Print(const Profile& profile) {
  if (profile.node_threads.empty()) {
    return profile.threads ? PrintNumber(*profile.threads) : YamlScalar("auto");
  }
  std::vector<std::pair<std::string, YamlValue>> entries;
  for (const auto& [node, threads] : profile.node_threads) {
    entries.emplace_back(std::to_string(node), PrintNumber(threads));
  }
  return YamlMap(std::move(entries));
}

std::string ThreadsForm::Schema() {
  const std::string map =
      fmt::format(R"({{"type":"object","minProperties":1,"additionalProperties":{}}})",
                  IntegerSchema(0, ProfileLimits::kThreads));
  return OrWord(AnyOf({IntegerSchema(1, ProfileLimits::kThreads), map}), kAutoWord);
}

// What a preset stands for is set by the reader of the profile, below what is said one by one.
void UseForm::Read(const Field& field, Profile& profile) {
  const std::size_t index = WordIndex(field, kUses);
  profile.use = index == 0 ? Profile{}.use : static_cast<Use>(index - 1);
}

YamlValue UseForm::Print(const Profile& profile) {
  // Without a `for`, the profile's numbers are those of no preset.
  const bool said = profile.origins.contains("workload.for");
  return YamlScalar(std::string(kUses[said ? static_cast<std::size_t>(profile.use) + 1 : 0]));
}

std::string UseForm::Schema() { return WordsSchema(kUses); }

void KvTypeForm::Read(const Field& field, Profile& profile) {
  const std::string_view word = kKvTypes[WordIndex(field, kKvTypes)];
  profile.kv_type.reset();
  if (word != kAutoWord) profile.kv_type = TypeNamed(word);
}

YamlValue KvTypeForm::Print(const Profile& profile) {
  return profile.kv_type ? PrintType(*profile.kv_type) : YamlScalar("auto");
}

std::string KvTypeForm::Schema() { return WordsSchema(kKvTypes); }

void ActivationsForm::Read(const Field& field, Profile& profile) {
  const std::string_view word = kActivations[WordIndex(field, kActivations)];
  profile.activation_type.reset();
  if (word != kAutoWord) profile.activation_type = TypeNamed(word);
}

YamlValue ActivationsForm::Print(const Profile& profile) {
  return profile.activation_type ? PrintType(*profile.activation_type) : YamlScalar("auto");
}

std::string ActivationsForm::Schema() { return WordsSchema(kActivations); }

void RoutedExpertsForm::Read(const Field& field, Profile& profile) {
  using Experts = Profile::Experts;
  profile.experts_share = 0;
  profile.experts_bytes = 0;
  if (field.value.kind != Kind::kMap) {
    const auto side = static_cast<Side>(WordIndex(field, kSides));
    profile.experts = side == Side::kAuto ? Experts::kAuto : Experts::kShare;
    profile.experts_share = side == Side::kDevice ? 1 : 0;
    return;
  }
  CheckKeys(field, kShareKeys);
  if (field.value.map.size() != 1) Fail(field, "expected one of 'share' and 'bytes'");
  const YamlValue::Entry& entry = field.value.map.front();
  const bool share = entry.key == "share";
  profile.experts = share ? Experts::kShare : Experts::kBytes;
  if (share) {
    profile.experts_share = Share(Entry(field, entry));
  } else {
    profile.experts_bytes = Bytes(Entry(field, entry), 0);
  }
}

YamlValue RoutedExpertsForm::Print(const Profile& profile) {
  switch (profile.experts) {
    case Profile::Experts::kAuto:
      return YamlScalar("auto");
    case Profile::Experts::kBytes:
      return YamlMap({{"bytes", PrintBytes(profile.experts_bytes)}});
    case Profile::Experts::kShare:
      break;
  }
  if (profile.experts_share == 0) return YamlScalar("host");
  if (profile.experts_share == 1) return YamlScalar("device");
  return YamlMap({{"share", YamlScalar(fmt::format("{}", profile.experts_share))}});
}

std::string RoutedExpertsForm::Schema() {
  const std::string map = fmt::format(
      R"({{"type":"object","properties":{{"share":{{"type":"number","minimum":0,"maximum":1}},)"
      R"("bytes":{}}},"additionalProperties":false,"minProperties":1,"maxProperties":1}})",
      BytesSchema(0));
  return AnyOf({WordsSchema(kSides), map});
}

void ExpertsOrderForm::Read(const Field& field, Profile& profile) {
  profile.experts_order.clear();
  if (field.value.kind != Kind::kList) Expected(field, "a list of expert ids");
  std::set<int> seen;
  for (const YamlValue& item : field.value.list) {
    const Field id_field{item, field.path};
    const auto id = static_cast<int>(Integer(id_field, 0, ProfileLimits::kExperts - 1));
    if (!seen.insert(id).second) Fail(id_field, fmt::format("expert {} is named twice", id));
    profile.experts_order.push_back(id);
  }
}

YamlValue ExpertsOrderForm::Print(const Profile& profile) {
  std::vector<YamlValue> items;
  for (const int id : profile.experts_order) items.push_back(PrintNumber(id));
  return YamlList(std::move(items));
}

std::string ExpertsOrderForm::Schema() {
  return fmt::format(R"({{"type":"array","items":{},"uniqueItems":true}})",
                     IntegerSchema(0, ProfileLimits::kExperts - 1));
}

void LayersForm::Read(const Field& field, Profile& profile) {
  profile.device_layers.reset();
  if (!IsWord(field.value, "all")) profile.device_layers = Range(field, ProfileLimits::kLayers - 1);
}

YamlValue LayersForm::Print(const Profile& profile) {
  if (!profile.device_layers) return YamlScalar("all");
  return PrintRange(profile.device_layers->first, profile.device_layers->second);
}

std::string LayersForm::Schema() { return OrWord(RangeSchema(ProfileLimits::kLayers - 1), "all"); }

// A relative name is looked for beside the profile that gives it, and where the program runs if a
// flag or a variable does.
void StatisticsForm::Read(const Field& field, Profile& profile) {
  const std::string& text = Text(field, "the name of a file, or none");
  profile.statistics.clear();
  if (text == "none") return;
  const bool in_file = field.value.line > 0 && field.value.source;
  const std::filesystem::path folder =
      in_file ? std::filesystem::path(*field.value.source).parent_path() : "";
  profile.statistics = (folder / text).lexically_normal().string();
}

YamlValue StatisticsForm::Print(const Profile& profile) {
  return YamlScalar(profile.statistics.empty() ? "none" : profile.statistics);
}

std::string StatisticsForm::Schema() { return R"({"type":"string","minLength":1})"; }

}  // namespace tandem::setting
