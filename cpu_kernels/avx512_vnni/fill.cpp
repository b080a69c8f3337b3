#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx512_vnni {

void Fill(KernelTable& /*table*/) {}

}  // namespace tandem::cpu::avx512_vnni
