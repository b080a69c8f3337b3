#pragma once

#include "cpu_kernels/linear.h"

namespace tandem::cpu::amx {

// bf16 rows of x times weights rounded to bf16.
void ManyF32(const LinearArgs& args);
void ManyBf16(const LinearArgs& args);
void ManyF16(const LinearArgs& args);
void ManyF8(const LinearArgs& args);
void ManyQ8_0(const LinearArgs& args);
void ManyQ4_0(const LinearArgs& args);
void ManyQ4_1(const LinearArgs& args);
void ManyQ5_0(const LinearArgs& args);
void ManyQ5_1(const LinearArgs& args);
void ManyIQ4_NL(const LinearArgs& args);
void ManyMXFP4(const LinearArgs& args);
void ManyQ2_K(const LinearArgs& args);
void ManyQ3_K(const LinearArgs& args);
void ManyQ4_K(const LinearArgs& args);
void ManyQ5_K(const LinearArgs& args);
void ManyQ6_K(const LinearArgs& args);
void ManyIQ4_XS(const LinearArgs& args);

}  // namespace tandem::cpu::amx
