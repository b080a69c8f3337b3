#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx512_bf16 {

void Fill(KernelTable& /*table*/) {}

}  // namespace tandem::cpu::avx512_bf16
