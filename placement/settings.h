#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "placement/profile.h"
#include "placement/setting_value.h"

namespace tandem {

// What a setting of a tuned profile was chosen for, and so is worth nothing without.
enum class Tie : std::uint8_t { kNothing, kMachine, kModel, kBoth };

// How a setting's value joins that of the profile it extends.
enum class Join : std::uint8_t { kReplace, kByKey, kAppend };

// One setting of a profile, from which all its forms follow: the key in YAML, the flag, the
// TANDEM_* variable, the JSON Schema, and how it is shown. `print` gives what `read` reads back.
struct Setting {
  std::string_view path;    // "workload.context"
  std::string_view values;  // in a command's help
  std::string_view help;
  void (*read)(const setting::Field& field, Profile& profile);
  YamlValue (*print)(const Profile& profile);
  std::string (*schema)();
  Tie tie = Tie::kNothing;
  Join join = Join::kReplace;
  std::string_view alias = "";  // a short flag, "--ctx"
  bool file_only = false;       // neither flag nor variable
};

// All of them, in the order in which they are shown.
std::span<const Setting> Settings();
// Null if there is none of this path.
const Setting* FindSetting(std::string_view path);

std::string FlagOf(const Setting& setting);      // "--workload-context"
std::string VariableOf(const Setting& setting);  // "TANDEM_WORKLOAD_CONTEXT"
// The names of settings and sections directly below a section ("" for the top), as written there.
std::vector<std::string_view> NamesBelow(std::string_view section);

// Sets a setting to what another profile has, or back to its default.
void Copy(const Setting& setting, const Profile& from, Profile& to);
void Reset(const Setting& setting, Profile& profile);
bool IsDefault(const Setting& setting, const Profile& profile);

// The settings of a profile: "path  value" lines, with the origin of each if asked for; the same as
// JSON {path: {value, origin}}; and a YAML text that reads back as the same profile.
std::string SettingsText(const Profile& profile, bool origins);
std::string SettingsJson(const Profile& profile);
std::string SettingsYaml(const Profile& profile);
// The JSON Schema of profiles (profiles/schema.json).
std::string SettingsSchema();

}  // namespace tandem
