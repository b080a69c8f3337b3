#pragma once

#include "cpu_kernels/attention.h"
#include "cpu_kernels/kv_rows.h"

namespace tandem::cpu::amx {

void AttentionBf16(const AttentionArgs& args);
void KvDecode(const KvDecodeArgs& args);

}  // namespace tandem::cpu::amx
