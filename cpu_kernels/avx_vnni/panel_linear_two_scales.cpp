#include "cpu_kernels/avx_vnni/kernels.h"
#include "cpu_kernels/avx_vnni/quant_simd.h"
#include "cpu_kernels/quant_body.h"
#include "cpu_kernels/quant_formats_k.h"

// A scale for every 16 columns.

namespace tandem::cpu::avx_vnni {

void LinearQ2_K(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ2_K>(args); }
void LinearQ3_K(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ3_K>(args); }
void LinearQ6_K(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ6_K>(args); }

}  // namespace tandem::cpu::avx_vnni
