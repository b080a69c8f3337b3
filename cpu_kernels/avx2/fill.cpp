#include "cpu_kernels/avx2/kernels.h"
#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx2 {

void Fill(KernelTable& table) {
  table.linear[static_cast<int>(DType::kF32)] = LinearF32;
  table.linear[static_cast<int>(DType::kBF16)] = LinearBf16;
  table.linear[static_cast<int>(DType::kF16)] = LinearF16;
  table.linear[static_cast<int>(DType::kF8E4M3)] = LinearF8;
  table.linear_transposed[static_cast<int>(DType::kF32)] = LinearTransposedF32;
  table.linear_transposed[static_cast<int>(DType::kBF16)] = LinearTransposedBf16;
  table.linear_transposed[static_cast<int>(DType::kF16)] = LinearTransposedF16;
  table.linear_transposed[static_cast<int>(DType::kF8E4M3)] = LinearTransposedF8;
  table.rmsnorm = RmsNorm;
  table.swiglu = Swiglu;
  table.rope = Rope;
  table.attention = Attention;
  table.to_bf16 = ToBf16;
  table.to_f16 = ToF16;
  table.widen = Widen;
  table.add = Add;
}

}  // namespace tandem::cpu::avx2
