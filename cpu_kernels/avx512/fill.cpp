#include "cpu_kernels/avx512/kernels.h"
#include "cpu_kernels/levels.h"

namespace tandem::cpu::avx512 {

void Fill(KernelTable& table) {
  table.linear[static_cast<int>(DType::kF32)] = LinearF32;
  table.linear[static_cast<int>(DType::kBF16)] = LinearBf16;
  table.linear[static_cast<int>(DType::kF16)] = LinearF16;
  table.linear[static_cast<int>(DType::kF8E4M3)] = LinearF8;
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
  table.linear_transposed[static_cast<int>(DType::kF32)] = LinearTransposedF32;
  table.linear_transposed[static_cast<int>(DType::kBF16)] = LinearTransposedBf16;
  table.linear_transposed[static_cast<int>(DType::kF16)] = LinearTransposedF16;
  table.linear_transposed[static_cast<int>(DType::kF8E4M3)] = LinearTransposedF8;
  table.quantize_rows = QuantizeRows;
  table.rmsnorm = RmsNorm;
  table.swiglu = Swiglu;
  table.rope = Rope;
  table.attention = Attention;
  table.kv_decode = KvDecode;
  table.to_bf16 = ToBf16;
  table.to_f16 = ToF16;
  table.widen = Widen;
  table.add = Add;
}

}  // namespace tandem::cpu::avx512
