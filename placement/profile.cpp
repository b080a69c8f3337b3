#include "placement/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "memory/error.h"
#include "placement/profile_files.h"
#include "placement/settings.h"
#include "placement/yaml_tree.h"

namespace tandem {
namespace {

using Kind = YamlValue::Kind;
using setting::Field;

// What one place says of a setting, or several that were joined.
struct Said {
  YamlValue value;
  std::string origin;
};

// What a file, or all that stand below it, says: by path.
using Layer = std::map<std::string, Said>;

struct Preset {
  Use use;
  std::int64_t context, sequences, prompt_tokens, answer_tokens;
};
// The contexts hold prompt and answer of all sequences.
constexpr std::array<Preset, 4> kPresets{{{Use::kChat, 8192, 4, 1024, 256},
                                          {Use::kAgent, 32768, 2, 8192, 512},
                                          {Use::kLong, 131072, 1, 65536, 1024},
                                          {Use::kBatch, 20480, 16, 1024, 256}}};

void Collect(const YamlValue& map, const std::string& section, Layer& layer) {
  const std::vector<std::string_view> names = NamesBelow(section);
  for (const YamlValue::Entry& entry : map.map) {
    if (section.empty() && entry.key == "extends") continue;
    if (std::ranges::find(names, entry.key) == names.end()) {
      std::vector<std::string_view> known = names;
      if (section.empty()) known.emplace_back("extends");
      setting::UnknownKey(entry, known);
    }
    const std::string path = section.empty() ? entry.key : section + "." + entry.key;
    if (FindSetting(path)) {
      layer[path] = {entry.value, Where(entry.value)};
    } else if (entry.value.kind == Kind::kMap) {
      Collect(entry.value, path, layer);
    } else if (entry.value.kind != Kind::kNull) {  // "memory:" with its lines commented out
      setting::Expected({entry.value, path}, "a map");
    }
  }
}

YamlValue JoinedByKey(const YamlValue& base, const YamlValue& over) {
  YamlValue joined = over;
  for (const YamlValue::Entry& entry : base.map) {
    const bool replaced =
        std::ranges::find(over.map, entry.key, &YamlValue::Entry::key) != over.map.end();
    if (!replaced) joined.map.push_back(entry);
  }
  return joined;
}

// Puts `over` on top of `base`.
void Stack(Layer& base, const Layer& over) {
  for (const auto& [path, said] : over) {
    const auto below = base.find(path);
    const Join join = FindSetting(path)->join;
    const bool same = below != base.end() && below->second.value.kind == said.value.kind;
    const bool joins = same && ((join == Join::kByKey && said.value.kind == Kind::kMap) ||
                                (join == Join::kAppend && said.value.kind == Kind::kList));
    if (!joins) {
      base[path] = said;
      continue;
    }
    Said& under = below->second;
    if (join == Join::kByKey) {
      under.value = JoinedByKey(under.value, said.value);
    } else {
      const std::vector<YamlValue>& list = said.value.list;
      under.value.list.insert(under.value.list.end(), list.begin(), list.end());
    }
    under.origin += ", " + said.origin;
  }
}

void Apply(const Layer& layer, Profile& profile) {
  for (const auto& [path, said] : layer) {
    FindSetting(path)->read({said.value, path}, profile);
    profile.origins[path] = said.origin;
  }
}

// A value that something above it replaces must be right too.
void CheckAlone(const Layer& layer) {
  Profile ignored;
  Apply(layer, ignored);
}

void ApplyPreset(const Said& use, Profile& profile) {
  FindSetting("workload.for")->read({use.value, "workload.for"}, profile);
  if (setting::IsWord(use.value, "any")) return;
  const Preset& preset = *std::ranges::find(kPresets, profile.use, &Preset::use);
  profile.context = preset.context;
  profile.max_sequences = preset.sequences;
  profile.prompt_tokens = preset.prompt_tokens;
  profile.answer_tokens = preset.answer_tokens;
  const std::string origin = fmt::format("workload.for: {} ({})", use.value.scalar, use.origin);
  for (const char* path : {"context", "sequences", "prompt_tokens", "answer_tokens"}) {
    profile.origins[std::string("workload.") + path] = origin;
  }
}

// A setting's place as it is known after all were joined.
struct Placed {
  std::string path;
  YamlValue value;
  std::string origin;
  Placed(const Profile& profile, std::string setting) : path(std::move(setting)) {
    const auto found = profile.origins.find(path);
    origin = found == profile.origins.end() ? "default" : found->second;
    value.line = 0;
    value.source = std::make_shared<const std::string>(origin);
  }
  Field field() const { return {value, path}; }
};

// The built-in lengths bind nobody; lengths that were asked for must be possible.
void CheckRequest(const Profile& profile) {
  const Placed context(profile, "workload.context");
  const Placed prompt(profile, "workload.prompt_tokens");
  const Placed answer(profile, "workload.answer_tokens");
  const Placed least(profile, "workload.least_context");
  const bool asked = prompt.origin != "default" || answer.origin != "default";
  if (asked && profile.prompt_tokens + profile.answer_tokens > profile.context) {
    setting::Fail(context.field(),
                  fmt::format("{} tokens do not hold one request of {} + {} (prompt_tokens: {}; "
                              "answer_tokens: {}): raise it or lower them",
                              profile.context, profile.prompt_tokens, profile.answer_tokens,
                              prompt.origin, answer.origin));
  }
  if (profile.least_context > profile.context) {
    setting::Fail(least.field(),
                  fmt::format("{} is more than the context, {} ({})", profile.least_context,
                              profile.context, context.origin));
  }
}

Profile MakeProfile(const Layer& layer, const std::string& file) {
  Profile profile;
  profile.file = file;
  const auto use = layer.find("workload.for");
  if (use != layer.end()) ApplyPreset(use->second, profile);
  Apply(layer, profile);
  CheckRequest(profile);
  return profile;
}

const YamlValue* FindExtends(const YamlValue& root) {
  const auto found = std::ranges::find(root.map, "extends", &YamlValue::Entry::key);
  return found == root.map.end() ? nullptr : &found->value;
}

Layer ReadLayer(const ProfileText& text, std::vector<std::string>& chain);

// What the profile stands on. `chain` names the profiles that lead here, this one last.
Layer ReadExtended(const YamlValue& extends, const ProfileText& text,
                   std::vector<std::string>& chain) {
  constexpr std::size_t kMostProfiles = 8;
  const Field field{extends, "extends"};
  const std::string& name = setting::Text(field, "the name of a file or of a shipped profile");
  if (chain.size() >= kMostProfiles) {
    setting::Fail(field, fmt::format("a chain of more than {} profiles", kMostProfiles));
  }
  ProfileText base;
  try {
    base = FindExtended(name, text);
  } catch (const SystemError& error) {
    throw SystemError(fmt::format("{}: 'extends': {}", Where(extends), error.what()), error.code());
  }
  if (std::ranges::find(chain, base.identity) != chain.end()) {
    setting::Fail(field, fmt::format("{} extends itself, by way of {} profile(s)",
                                     Quoted(base.name), chain.size()));
  }
  return ReadLayer(base, chain);
}

Layer ReadLayer(const ProfileText& text, std::vector<std::string>& chain) {
  const YamlValue root = ParseYaml(text.text, text.name);
  if (root.kind != Kind::kNull && root.kind != Kind::kMap) {
    Throw<ConfigError>("{}: expected a map of settings, found {}", Where(root), Describe(root));
  }
  Layer own;
  Collect(root, "", own);
  CheckAlone(own);
  const YamlValue* extends = FindExtends(root);
  if (!extends) return own;
  chain.push_back(text.identity);
  Layer layer = ReadExtended(*extends, text, chain);
  Stack(layer, own);
  return layer;
}

// A flag or variable: the word itself, or YAML where it is a list or a map.
Layer ReadGiven(const GivenSetting& given) {
  const Setting* setting = FindSetting(given.path);
  TANDEM_CHECK(setting != nullptr && !setting->file_only);
  const bool yaml = given.text.starts_with('[') || given.text.starts_with('{');
  YamlValue value;
  if (yaml) {
    value = ParseYaml(given.text, given.source);
  } else {
    value.kind = Kind::kScalar;
    value.scalar = given.text;
    value.source = std::make_shared<const std::string>(given.source);
  }
  value.line = 0;  // where it stands in a flag tells nothing
  Layer layer;
  layer[given.path] = {std::move(value), given.source};
  CheckAlone(layer);
  return layer;
}

}  // namespace

Profile ParseProfile(const std::string& yaml, const std::string& file) {
  std::vector<std::string> chain;
  return MakeProfile(ReadLayer({file, file, yaml, false}, chain), file);
}

Profile ResolveProfile(const std::string& file, std::span<const GivenSetting> given) {
  Layer layer;
  std::string name;
  if (!file.empty()) {
    std::vector<std::string> chain;
    const ProfileText text = FindProfile(file);
    name = text.name;
    layer = ReadLayer(text, chain);
  }
  for (const GivenSetting& setting : given) Stack(layer, ReadGiven(setting));
  return MakeProfile(layer, name);
}

Profile ReadProfile(const std::string& file) { return ResolveProfile(file, {}); }

std::vector<std::string> AdaptProfile(Profile& profile, bool machine_differs, bool model_differs) {
  std::vector<std::string> dropped;
  for (const Setting& setting : Settings()) {
    const auto origin = profile.origins.find(std::string(setting.path));
    if (origin == profile.origins.end()) continue;
    // What was said for this run stays.
    const bool now = origin->second.starts_with("--") || origin->second.starts_with("TANDEM_");
    const bool machine = setting.tie == Tie::kMachine || setting.tie == Tie::kBoth;
    const bool model = setting.tie == Tie::kModel || setting.tie == Tie::kBoth;
    if (now || !((machine && machine_differs) || (model && model_differs))) continue;
    Reset(setting, profile);
    dropped.emplace_back(setting.path);
  }
  return dropped;
}

}  // namespace tandem
