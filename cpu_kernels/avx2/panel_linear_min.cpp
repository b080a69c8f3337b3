#include "cpu_kernels/avx2/kernels.h"
#include "cpu_kernels/avx2/quant_simd.h"
#include "cpu_kernels/quant_body.h"
#include "cpu_kernels/quant_formats_32.h"
#include "cpu_kernels/quant_formats_k.h"

// A scale and a min for 32 columns.

namespace tandem::cpu::avx2 {

void LinearQ4_1(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ4_1>(args); }
void LinearQ5_1(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ5_1>(args); }
void LinearQ4_K(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ4_K>(args); }
void LinearQ5_K(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ5_K>(args); }

}  // namespace tandem::cpu::avx2
