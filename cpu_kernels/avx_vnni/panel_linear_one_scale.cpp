#include "cpu_kernels/avx_vnni/kernels.h"
#include "cpu_kernels/avx_vnni/quant_simd.h"
#include "cpu_kernels/quant_body.h"
#include "cpu_kernels/quant_formats_32.h"
#include "cpu_kernels/quant_formats_table.h"

// One scale for 32 columns, no min.

namespace tandem::cpu::avx_vnni {

void LinearQ8_0(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ8_0>(args); }
void LinearQ4_0(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ4_0>(args); }
void LinearQ5_0(const LinearArgs& args) { QuantLinear<QuantSimd, FormatQ5_0>(args); }
void LinearIQ4_NL(const LinearArgs& args) { QuantLinear<QuantSimd, FormatIQ4_NL>(args); }
void LinearMXFP4(const LinearArgs& args) { QuantLinear<QuantSimd, FormatMXFP4>(args); }
void LinearIQ4_XS(const LinearArgs& args) { QuantLinear<QuantSimd, FormatIQ4_XS>(args); }

}  // namespace tandem::cpu::avx_vnni
