#include "cpu_kernels/linear.h"

#include "cpu_kernels/avx2/kernels.h"
#include "cpu_kernels/avx2/simd.h"
#include "cpu_kernels/linear_body.h"
#include "cpu_kernels/linear_transposed_body.h"

namespace tandem::cpu::avx2 {
namespace {

template <class W>
void Linear(const LinearArgs& a) {
  a.x_type == DType::kF32 ? LinearOf<Simd, F32Format, W>(a) : LinearOf<Simd, Bf16Format, W>(a);
}

}  // namespace

void LinearF32(const LinearArgs& args) { Linear<F32Format>(args); }
void LinearBf16(const LinearArgs& args) { Linear<Bf16Format>(args); }
void LinearF16(const LinearArgs& args) { Linear<F16Format>(args); }
void LinearF8(const LinearArgs& args) { Linear<F8Format>(args); }

void LinearTransposedF32(const LinearTransposedArgs& args) {
  LinearTransposedOf<Simd, F32Format>(args);
}
void LinearTransposedBf16(const LinearTransposedArgs& args) {
  LinearTransposedOf<Simd, Bf16Format>(args);
}
void LinearTransposedF16(const LinearTransposedArgs& args) {
  LinearTransposedOf<Simd, F16Format>(args);
}
void LinearTransposedF8(const LinearTransposedArgs& args) {
  LinearTransposedOf<Simd, F8Format>(args);
}

}  // namespace tandem::cpu::avx2
