#include "cpu_kernels/vector_ops.h"

#include "cpu_kernels/avx512/kernels.h"
#include "cpu_kernels/avx512/simd.h"
#include "cpu_kernels/vector_body.h"

namespace tandem::cpu::avx512 {

void RmsNorm(const RmsNormArgs& args) { RmsNormOf<Simd>(args); }
void Swiglu(const SwigluArgs& args) { SwigluOf<Simd>(args); }
void Rope(const RopeArgs& args) { RopeOf<Simd>(args); }
void ToBf16(const ConvertArgs& args) { ToBf16Of<Simd>(args); }
void ToF16(const ConvertArgs& args) { ToF16Of<Simd>(args); }
void Widen(const WidenArgs& args) { WidenOf<Simd, F32Format, Bf16Format, F16Format>(args); }
void Add(const AddArgs& args) { AddOf<Simd>(args); }

}  // namespace tandem::cpu::avx512
