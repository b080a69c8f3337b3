#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// Pairs of a tile, for Group and Experts: few where the experts have few pairs each, else as many
// as the tiles of matmul.cl or of gemm.h have rows.
std::int64_t ExpertTileRows(const DeviceTraits& traits, std::int64_t T, std::int64_t C,
                            std::int64_t E, bool bf16);

// Whether one_row_mma.cl takes them.
bool TakesOneRowMma(Programs& programs, const ExpertsArgs& a);

// gemm.h where it takes it, else experts.cl: gate and up with SwiGLU, then down and the sum, which
// are one launch for one or two rows whose experts are in one slab.
void LaunchExperts(Programs& programs, const ExpertsArgs& a);

}  // namespace tandem::cl
