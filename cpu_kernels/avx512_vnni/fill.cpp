#include "cpu_kernels/avx512_vnni/kernels.h"
#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx512_vnni {

void Fill(KernelTable& table) {
  table.linear[static_cast<int>(DType::kQ8_0)] = LinearQ8_0;
  table.linear[static_cast<int>(DType::kQ4_0)] = LinearQ4_0;
  table.linear[static_cast<int>(DType::kQ4_1)] = LinearQ4_1;
  table.linear[static_cast<int>(DType::kQ5_0)] = LinearQ5_0;
  table.linear[static_cast<int>(DType::kQ5_1)] = LinearQ5_1;
  table.linear[static_cast<int>(DType::kIQ4_NL)] = LinearIQ4_NL;
  table.linear[static_cast<int>(DType::kMXFP4)] = LinearMXFP4;
  table.linear[static_cast<int>(DType::kQ2_K)] = LinearQ2_K;
  table.linear[static_cast<int>(DType::kQ3_K)] = LinearQ3_K;
  table.linear[static_cast<int>(DType::kQ4_K)] = LinearQ4_K;
  table.linear[static_cast<int>(DType::kQ5_K)] = LinearQ5_K;
  table.linear[static_cast<int>(DType::kQ6_K)] = LinearQ6_K;
  table.linear[static_cast<int>(DType::kIQ4_XS)] = LinearIQ4_XS;
}

}  // namespace tandem::cpu::avx512_vnni
