#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "placement/settings.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSchemaHead =
    R"({"$schema":"https://json-schema.org/draft/2020-12/schema","title":"Tandem profile",)"
    R"("description":"Where the parts of a model are wanted, how much memory may be used, and for )"
    R"(what load. Written by `tandem config schema`.","type":["object","null"],)"
    R"("additionalProperties":false,"properties":{}})";

std::string OriginOf(const Profile& profile, const Setting& setting) {
  const auto origin = profile.origins.find(std::string(setting.path));
  return origin == profile.origins.end() ? "default" : origin->second;
}

// A plain scalar is a number where it reads as one.
Json ToJson(const YamlValue& value) {
  Json json;
  switch (value.kind) {
    case YamlValue::Kind::kNull:
      break;
    case YamlValue::Kind::kScalar:
      json = value.scalar;
      if (!value.quoted) {
        const Json number = Json::parse(value.scalar, nullptr, /*allow_exceptions=*/false);
        if (number.is_number()) json = number;
      }
      break;
    case YamlValue::Kind::kList:
      json = Json::array();
      for (const YamlValue& item : value.list) json.push_back(ToJson(item));
      break;
    case YamlValue::Kind::kMap:
      json = Json::object();
      for (const YamlValue::Entry& entry : value.map) json[entry.key] = ToJson(entry.value);
      break;
  }
  return json;
}

// Opens the sections of a path that are not open yet; returns the last name, indented.
std::string OpenSections(const std::string& path, std::string& open, std::string& out) {
  const std::size_t last = path.rfind('.');
  const std::string section = last == std::string::npos ? "" : path.substr(0, last);
  std::string indent;
  for (std::size_t start = 0; start < section.size();) {
    const std::size_t end = std::min(section.find('.', start), section.size());
    const std::string prefix = section.substr(0, end);
    if (prefix != open && !open.starts_with(prefix + ".")) {
      out += fmt::format("{}{}:\n", indent, section.substr(start, end - start));
    }
    indent += "  ";
    start = end + 1;
  }
  open = section;
  return indent + (last == std::string::npos ? path : path.substr(last + 1));
}

// A list of maps reads better with one line for each.
std::string ValueText(const YamlValue& value, const std::string& indent) {
  const bool rules = value.kind == YamlValue::Kind::kList && !value.list.empty() &&
                     value.list.front().kind == YamlValue::Kind::kMap;
  if (!rules) return fmt::format(" {}", FlowText(value));
  std::string out;
  for (const YamlValue& item : value.list) {
    out += fmt::format("\n{}  - {}", indent, FlowText(item));
  }
  return out;
}

// Whether a YAML text of the profile must say this setting.
bool Says(const Profile& profile, const Setting& setting) {
  return profile.origins.contains(std::string(setting.path)) || !IsDefault(setting, profile);
}

Json& SchemaAt(Json& root, std::string_view path) {
  Json* at = &root["properties"];
  for (std::size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
    Json& section = (*at)[std::string(path.substr(0, dot))];
    if (section.is_null()) {
      section = {{"type", {"object", "null"}},
                 {"additionalProperties", false},
                 {"properties", Json::object()}};
    }
    at = &section["properties"];
    path.remove_prefix(dot + 1);
  }
  return (*at)[std::string(path)];
}

}  // namespace

std::string SettingsText(const Profile& profile, bool origins) {
  std::size_t path_width = 0;
  std::size_t value_width = 0;
  for (const Setting& setting : Settings()) {
    path_width = std::max(path_width, setting.path.size());
    value_width = std::max(value_width, FlowText(setting.print(profile)).size());
  }
  std::string out;
  for (const Setting& setting : Settings()) {
    const std::string value = FlowText(setting.print(profile));
    if (origins) {
      out += fmt::format("{:<{}}  {:<{}}  {}\n", setting.path, path_width, value,
                         std::min<std::size_t>(value_width, 24), OriginOf(profile, setting));
    } else {
      out += fmt::format("{:<{}}  {}\n", setting.path, path_width, value);
    }
  }
  return out;
}

std::string SettingsJson(const Profile& profile) {
  Json json;
  for (const Setting& setting : Settings()) {
    json[std::string(setting.path)] = {{"value", ToJson(setting.print(profile))},
                                       {"origin", OriginOf(profile, setting)}};
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string SettingsYaml(const Profile& profile) {
  std::string out;
  std::string open;
  for (const Setting& setting : Settings()) {
    if (!Says(profile, setting)) continue;
    YamlValue value = setting.print(profile);
    if (setting.path == "placement.experts.statistics" && !profile.statistics.empty()) {
      // Wherever the text is saved, it means this file.
      value = YamlScalar(std::filesystem::absolute(profile.statistics).string());
    }
    const std::string key = OpenSections(std::string(setting.path), open, out);
    out += key + ":" + ValueText(value, key.substr(0, key.find_first_not_of(' '))) + "\n";
  }
  return out;
}

std::string SettingsSchema() {
  Json root = Json::parse(kSchemaHead);
  root["properties"]["extends"] = {
      {"description",
       "another profile: a file relative to this one, or the name of a shipped profile"},
      {"type", "string"},
      {"minLength", 1}};
  for (const Setting& setting : Settings()) {
    Json& at = SchemaAt(root, setting.path);
    at["description"] = setting.help;
    at.update(Json::parse(setting.schema()));
  }
  return root.dump(2) + "\n";
}

}  // namespace tandem
