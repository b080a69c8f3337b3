#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx_vnni {

void Fill(KernelTable& /*table*/) {}

}  // namespace tandem::cpu::avx_vnni
