#include "cpu_kernels/amx/kernels.h"
#include "cpu_kernels/amx/linear_body.h"

// Row-major weights.

namespace tandem::cpu::amx {

void ManyF32(const LinearArgs& args) { LinearTiles<RowTiles<RowF32>>(args); }
void ManyBf16(const LinearArgs& args) { LinearTiles<Bf16Tiles>(args); }
void ManyF16(const LinearArgs& args) { LinearTiles<RowTiles<RowF16>>(args); }
void ManyF8(const LinearArgs& args) { LinearTiles<RowTiles<RowF8>>(args); }

}  // namespace tandem::cpu::amx
