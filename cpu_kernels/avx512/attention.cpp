#include "cpu_kernels/attention.h"

#include "cpu_kernels/attention_body.h"
#include "cpu_kernels/avx512/kernels.h"
#include "cpu_kernels/avx512/simd.h"

namespace tandem::cpu::avx512 {

void Attention(const AttentionArgs& args) {
  AttentionOf<Simd, F32Format, Bf16Format, F16Format>(args);
}

}  // namespace tandem::cpu::avx512
