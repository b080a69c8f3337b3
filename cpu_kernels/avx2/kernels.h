#pragma once

#include "cpu_kernels/attention.h"
#include "cpu_kernels/kv_rows.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/vector_ops.h"

namespace tandem::cpu::avx2 {

void LinearF32(const LinearArgs& args);
void LinearBf16(const LinearArgs& args);
void LinearF16(const LinearArgs& args);
void LinearF8(const LinearArgs& args);
void LinearQ8_0(const LinearArgs& args);
void LinearQ4_0(const LinearArgs& args);
void LinearQ4_1(const LinearArgs& args);
void LinearQ5_0(const LinearArgs& args);
void LinearQ5_1(const LinearArgs& args);
void LinearIQ4_NL(const LinearArgs& args);
void LinearMXFP4(const LinearArgs& args);
void LinearQ2_K(const LinearArgs& args);
void LinearQ3_K(const LinearArgs& args);
void LinearQ4_K(const LinearArgs& args);
void LinearQ5_K(const LinearArgs& args);
void LinearQ6_K(const LinearArgs& args);
void LinearIQ4_XS(const LinearArgs& args);
void LinearTransposedF32(const LinearTransposedArgs& args);
void LinearTransposedBf16(const LinearTransposedArgs& args);
void LinearTransposedF16(const LinearTransposedArgs& args);
void LinearTransposedF8(const LinearTransposedArgs& args);
void QuantizeRows(const QuantizeArgs& args);
void RmsNorm(const RmsNormArgs& args);
void Swiglu(const SwigluArgs& args);
void Rope(const RopeArgs& args);
void Attention(const AttentionArgs& args);
void KvDecode(const KvDecodeArgs& args);
void ToBf16(const ConvertArgs& args);
void ToF16(const ConvertArgs& args);
void Widen(const WidenArgs& args);
void Add(const AddArgs& args);

}  // namespace tandem::cpu::avx2
