// Feeds any bytes to the parser of profiles. What is accepted must print as YAML that is read back
// as the same profile, and print again as the same text.
#include <cstddef>
#include <cstdint>
#include <string>

#include "memory/error.h"
#include "placement/profile.h"
#include "placement/settings.h"

namespace {

// No file of this folder is there, so that `extends` finds shipped profiles only.
constexpr const char* kFile = "absent-folder/profile.yaml";

void Use(const tandem::Profile& profile) {
  const std::string yaml = tandem::SettingsYaml(profile);
  const tandem::Profile again = tandem::ParseProfile(yaml, "again.yaml");
  TANDEM_CHECK(tandem::SettingsYaml(again) == yaml);
  TANDEM_CHECK(!tandem::SettingsText(profile, true).empty());
  TANDEM_CHECK(!tandem::SettingsJson(profile).empty());
  tandem::Profile adapted = profile;
  tandem::AdaptProfile(adapted, true, true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  tandem::Profile profile;
  try {
    profile = tandem::ParseProfile(text, kFile);
  } catch (const tandem::ConfigError&) {  // a bad text
    return 0;
  } catch (const tandem::SystemError&) {  // extends what is not there
    return 0;
  }
  Use(profile);  // and an error here is a finding
  return 0;
}
