#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// The text of a profile and what it is called in messages.
struct ProfileText {
  std::string name;      // "profiles/gpu-24g.yaml"
  std::string identity;  // the same for the same file, however it is named
  std::string text;
  bool shipped = false;  // comes with the program: not a file of the user's
};

// A profile that is built into the program.
struct ShippedProfile {
  std::string_view name;  // "gpu-24g"
  std::string_view text;
};
std::span<const ShippedProfile> ShippedProfiles();

// The file of this name, or the shipped profile ("gpu-24g") if there is no such file. Throws
// SystemError: 66 if there is neither (with the nearest shipped name), 74 if it cannot be read.
ProfileText FindProfile(const std::string& name);

// What `extends: name` in `from` means: a file relative to the folder of `from`, or a shipped
// profile.
ProfileText FindExtended(const std::string& name, const ProfileText& from);

}  // namespace tandem
