#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx512_bf16 {

void Fill(KernelTable& table) { table.fast_activation = DType::kBF16; }

}  // namespace tandem::cpu::avx512_bf16
