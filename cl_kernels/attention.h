#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// attention.cl: a work-item or a work-group per row and head, or a work-group per 8 heads.
// Throws OpenClError for heads larger than the kernel holds (dk 576, dv 512).
void LaunchAttention(Programs& programs, const AttentionArgs& a);

}  // namespace tandem::cl
