#include "placement/profile_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "memory/error.h"
#include "placement/nearest.h"
#include "placement/yaml_tree.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// "gpu-24g" and "gpu-24g.yaml" name the same shipped profile.
const ShippedProfile* FindShipped(std::string_view name) {
  if (name.ends_with(".yaml")) name.remove_suffix(5);
  const auto found = std::ranges::find(ShippedProfiles(), name, &ShippedProfile::name);
  return found == ShippedProfiles().end() ? nullptr : &*found;
}

ProfileText FromShipped(const ShippedProfile& profile) {
  return {fmt::format("profiles/{}.yaml", profile.name), fmt::format("shipped {}", profile.name),
          std::string(profile.text), /*shipped=*/true};
}

[[noreturn]] void ThrowAbsent(const std::string& name) {
  std::vector<std::string_view> names;
  for (const ShippedProfile& profile : ShippedProfiles()) names.push_back(profile.name);
  const std::string nearest = NearestKey(name, names);
  const std::string hint = nearest.empty() ? fmt::format("shipped: {}", fmt::join(names, ", "))
                                           : fmt::format("did you mean '{}'?", nearest);
  throw SystemError(fmt::format("{}: there is no such profile ({})", Quoted(name), hint),
                    ExitCode::kMissingFile);
}

std::string ReadText(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  // One byte more than allowed tells that it is too large, without reading all of it.
  std::string text(kMaxYamlBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!stream.is_open() || stream.bad()) {
    throw SystemError(fmt::format("{}: the profile cannot be read", Quoted(file)), ExitCode::kIo);
  }
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

std::string Identity(const std::string& file) {
  std::error_code error;
  const fs::path path = fs::weakly_canonical(file, error);
  return error ? file : path.string();
}

// A folder that is called as a shipped profile does not stand in its way.
ProfileText Find(const std::string& file, const std::string& name) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (fs::is_regular_file(status)) return {file, Identity(file), ReadText(file), false};
  if (const ShippedProfile* shipped = FindShipped(name)) return FromShipped(*shipped);
  if (!fs::exists(status)) ThrowAbsent(name);
  throw SystemError(fmt::format("{}: expected a profile, found no regular file", Quoted(file)),
                    ExitCode::kIo);
}

}  // namespace

ProfileText FindProfile(const std::string& name) { return Find(name, name); }

ProfileText FindExtended(const std::string& name, const ProfileText& from) {
  if (!from.shipped) return Find((fs::path(from.name).parent_path() / name).string(), name);
  if (const ShippedProfile* shipped = FindShipped(name)) return FromShipped(*shipped);
  ThrowAbsent(name);
}

}  // namespace tandem
