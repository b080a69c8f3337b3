# tandem_embed_cl(<target> <files>...): each <name>.cl becomes tandem::cl::source::<name>, byte for
# byte, and the build is redone when a file changes.
function(tandem_embed_cl target)
  foreach(cl IN LISTS ARGN)
    cmake_path(GET cl STEM name)
    file(READ ${cl} text)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${cl})
    file(CONFIGURE OUTPUT ${name}.cl.cpp @ONLY CONTENT [[
#include <string_view>
namespace tandem::cl::source {
extern const std::string_view @name@;
const std::string_view @name@ = R"CLC(@text@)CLC";
}  // namespace tandem::cl::source
]])
    target_sources(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/${name}.cl.cpp)
  endforeach()
endfunction()
