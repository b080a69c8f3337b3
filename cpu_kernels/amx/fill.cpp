#include "cpu_kernels/amx/attention.h"
#include "cpu_kernels/amx/kernels.h"
#include "cpu_kernels/levels.h"

namespace tandem::cpu::amx {

// Rows of x from which on the tiles beat the kernels for few rows, measured on a Sapphire Rapids
// core: 14 to 28 where those are integer dot products (the fewer codes cost there), 5 to 8 for
// row-major weights.
void Fill(KernelTable& table) {
  table.attention_bf16 = AttentionBf16;
  table.kv_decode = KvDecode;
  const auto set = [&](DType format, void (*linear)(const LinearArgs&), std::int64_t min_rows) {
    table.many[static_cast<int>(format)] = {linear, DType::kBF16, min_rows};
  };
  // f32 and f16 weights lose digits in bf16: the runtime uses these where a run rounds activations.
  set(DType::kF32, ManyF32, 8);
  set(DType::kF16, ManyF16, 8);
  set(DType::kBF16, ManyBf16, 8);
  set(DType::kF8E4M3, ManyF8, 5);
  set(DType::kQ8_0, ManyQ8_0, 20);
  set(DType::kQ4_0, ManyQ4_0, 24);
  set(DType::kQ4_1, ManyQ4_1, 20);
  set(DType::kQ5_0, ManyQ5_0, 20);
  set(DType::kQ5_1, ManyQ5_1, 24);
  set(DType::kIQ4_NL, ManyIQ4_NL, 28);
  set(DType::kMXFP4, ManyMXFP4, 24);
  set(DType::kQ2_K, ManyQ2_K, 16);
  set(DType::kQ3_K, ManyQ3_K, 16);
  set(DType::kQ4_K, ManyQ4_K, 24);
  set(DType::kQ5_K, ManyQ5_K, 24);
  set(DType::kQ6_K, ManyQ6_K, 14);
  set(DType::kIQ4_XS, ManyIQ4_XS, 26);
}

}  // namespace tandem::cpu::amx
