# tandem_isa(<target> <isa> <flags>...): compiles every file of folder <isa> with those flags only.
# The folder is closed: its files include intrinsics, their contract and nothing with inline code,
# because the linker may pick an inline function compiled there for the whole program.
function(tandem_isa target isa)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${isa}/*.cpp)
  add_library(${target}_${isa} OBJECT ${sources})
  target_link_libraries(${target}_${isa} PRIVATE tandem_options)
  target_compile_options(${target}_${isa} PRIVATE ${ARGN})
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${isa}>)
endfunction()
