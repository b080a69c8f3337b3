#pragma once

#include "cpu_kernels/kernel_table.h"

namespace tandem::cpu {

// Each enters what its folder has into the table; called in this order, lowest first.
namespace ref {
void Fill(KernelTable& table);
}
namespace avx2 {
void Fill(KernelTable& table);
}
namespace avx_vnni {
void Fill(KernelTable& table);
}
namespace avx512 {
void Fill(KernelTable& table);
}
namespace avx512_vnni {
void Fill(KernelTable& table);
}
namespace avx512_bf16 {
void Fill(KernelTable& table);
}
namespace amx {
void Fill(KernelTable& table);
}

}  // namespace tandem::cpu
