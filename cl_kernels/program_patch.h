#pragma once

#include <string>
#include <string_view>

namespace tandem::cl {

// NVIDIA's compiler emits PTX for `.target sm_90` and refuses wgmma, which needs sm_90a, but what
// CL_PROGRAM_BINARIES gives is that PTX as text, and clCreateProgramWithBinary takes it back. The
// .cl files write such instructions as comments, `asm volatile("//PTX wgmma... {%0}, %1;" : ...)`:
// their operands arrive in the text as registers. This makes instructions of the comments and an
// sm_90a of the target. Throws OpenClError for a text with no such target or no such comment.
std::string WithHiddenPtx(std::string_view ptx);

}  // namespace tandem::cl
