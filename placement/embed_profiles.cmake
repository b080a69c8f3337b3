# tandem_embed_profiles(<variable>): writes a source file that holds every profiles/*.yaml, byte for
# byte, sets the variable to its name, and has the build redone when one changes.
function(tandem_embed_profiles variable)
  file(GLOB profiles CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/profiles/*.yaml)
  set(entries "")
  foreach(profile IN LISTS profiles)
    cmake_path(GET profile STEM name)
    file(READ ${profile} text)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${profile})
    string(APPEND entries "    {\"${name}\", R\"YAML(${text})YAML\"},\n")
  endforeach()
  set(file ${CMAKE_CURRENT_BINARY_DIR}/shipped_profiles.cpp)
  file(CONFIGURE OUTPUT ${file} @ONLY CONTENT [[
#include "placement/profile_files.h"
namespace tandem {
namespace {
constexpr ShippedProfile kShipped[] = {
@entries@};
}  // namespace
std::span<const ShippedProfile> ShippedProfiles() { return kShipped; }
}  // namespace tandem
]])
  set(${variable} ${file} PARENT_SCOPE)
endfunction()
