# Fails if an object file of a closed ISA folder defines a weak symbol: an inline function compiled
# there may be the copy that the linker picks for the whole program, and would then crash on a CPU
# without those instructions.
#   cmake -DNM=<nm> -DOBJECTS=<file>,<file>... -P closed_folders.cmake
string(REPLACE "," ";" objects "${OBJECTS}")
if(NOT objects)
  message(FATAL_ERROR "no object files given: the test would prove nothing")
endif()
set(found "")
foreach(object IN LISTS objects)
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols
    COMMAND_ERROR_IS_FATAL ANY)
  if(NOT symbols)
    message(FATAL_ERROR "${object}: no symbols")
  endif()
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
  foreach(symbol IN LISTS weak)
    string(APPEND found "\n  ${object}: ${symbol}")
  endforeach()
endforeach()
if(found)
  message(FATAL_ERROR "weak symbols in closed ISA folders, expected none:${found}")
endif()
