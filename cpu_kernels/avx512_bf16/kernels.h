#pragma once

#include "cpu_kernels/linear.h"

namespace tandem::cpu::avx512_bf16 {

void LinearBf16(const LinearArgs& args);
void LinearF8(const LinearArgs& args);

}  // namespace tandem::cpu::avx512_bf16
