#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// gemm.h where it takes it; else linear.cl: the few-rows form up to traits.few_rows_max rows, else
// the tiles. A norm joins the product of one or two rows, else it is a launch before.
void LaunchLinear(Programs& programs, const LinearArgs& a);
// linear.cl per head (straight), head_linear.cl (transposed).
void LaunchHeadLinear(Programs& programs, const HeadLinearArgs& a);

}  // namespace tandem::cl
