#pragma once

#include "cpu_kernels/linear.h"

namespace tandem::cpu::avx_vnni {

void LinearQ8_0(const LinearArgs& args);
void LinearQ4_0(const LinearArgs& args);
void LinearQ4_1(const LinearArgs& args);
void LinearQ5_0(const LinearArgs& args);
void LinearQ5_1(const LinearArgs& args);
void LinearIQ4_NL(const LinearArgs& args);
void LinearMXFP4(const LinearArgs& args);
void LinearQ2_K(const LinearArgs& args);
void LinearQ3_K(const LinearArgs& args);
void LinearQ4_K(const LinearArgs& args);
void LinearQ5_K(const LinearArgs& args);
void LinearQ6_K(const LinearArgs& args);
void LinearIQ4_XS(const LinearArgs& args);

}  // namespace tandem::cpu::avx_vnni
