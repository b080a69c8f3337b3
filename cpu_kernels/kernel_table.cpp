#include "cpu_kernels/kernel_table.h"

#include "cpu_kernels/levels.h"

namespace tandem::cpu {
namespace {

struct Level {
  Isa isa;
  void (*fill)(KernelTable&);
};
constexpr Level kLevels[] = {{Isa::kRef, ref::Fill},
                             {Isa::kAvx2, avx2::Fill},
                             {Isa::kAvxVnni, avx_vnni::Fill},
                             {Isa::kAvx512, avx512::Fill},
                             {Isa::kAvx512Vnni, avx512_vnni::Fill},
                             {Isa::kAvx512Bf16, avx512_bf16::Fill},
                             {Isa::kAmx, amx::Fill}};

}  // namespace

KernelTable MakeKernelTable(Isa isa) {
  KernelTable table;
  for (const Level& level : kLevels) {
    if (level.isa <= isa && Supports(level.isa)) level.fill(table);
  }
  table.isa = isa;
  return table;
}

}  // namespace tandem::cpu
