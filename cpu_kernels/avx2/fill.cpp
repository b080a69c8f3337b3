#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx2 {

void Fill(KernelTable& /*table*/) {}

}  // namespace tandem::cpu::avx2
