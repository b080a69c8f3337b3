#include "cpu_kernels/avx512_bf16/kernels.h"
#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx512_bf16 {

void Fill(KernelTable& table) {
  table.linear[static_cast<int>(DType::kBF16)] = LinearBf16;
  table.linear[static_cast<int>(DType::kF8E4M3)] = LinearF8;
}

}  // namespace tandem::cpu::avx512_bf16
