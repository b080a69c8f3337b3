#include "cpu_kernels/linear.h"

#include "cpu_kernels/avx512/kernels.h"
#include "cpu_kernels/avx512_bf16/kernels.h"
#include "cpu_kernels/avx512_bf16/simd.h"
#include "cpu_kernels/linear_body.h"

// bf16 rows of x times bf16 or FP8 weights by vdpbf16ps: products of bf16 are exact, each
// instruction adds two of them to an f32 lane. Two differences from the levels below, both of the
// instruction itself: a subnormal bf16 of x or w counts as zero (below 1.2e-38; no FP8 value is
// one), and so does a subnormal sum; the two additions round to nearest, whatever MXCSR says.
// An FP8 weight's scale multiplies the f32 sum of its 128 columns. f32 rows of x keep the FMA
// kernels of AVX-512: rounding x is the caller's choice.

namespace tandem::cpu::avx512_bf16 {

void LinearBf16(const LinearArgs& args) {
  args.x_type == DType::kF32 ? avx512::LinearBf16(args)
                             : LinearOf<SimdBf16, Bf16Operand, Bf16Operand>(args);
}
void LinearF8(const LinearArgs& args) {
  args.x_type == DType::kF32 ? avx512::LinearF8(args)
                             : LinearOf<SimdBf16, Bf16Operand, F8Operand>(args);
}

}  // namespace tandem::cpu::avx512_bf16
