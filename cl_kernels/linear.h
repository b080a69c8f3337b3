#pragma once

#include <functional>

#include "cl_kernels/args.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// Builds what products with weights of a type need, so that no step compiles; with bf16 also the
// form that LinearArgs::bf16 allows.
void PrepareLinear(Programs& programs, DType type, bool bf16);

// linear_batch.cl for some rows where the device and the arguments allow it; gemm.h where it takes
// it; else linear.cl: the few-rows form up to traits.few_rows_max rows, or where the tiles leave
// units idle (few_rows_fill), else the tiles. A norm joins the product of one or two rows, else it
// is a launch before. Of a matrix in parts one product for each, the outputs at their rows.
void LaunchLinear(Programs& programs, const LinearArgs& a);
// router_linear.cl, whose arguments behind the product's `rest` sets; false: not for this device or
// this product, and nothing was enqueued.
bool LaunchedOneRouted(Programs& programs, const LinearArgs& a,
                       const std::function<void(Arguments&)>& rest);
// linear.cl per head (straight), head_linear.cl (transposed).
void LaunchHeadLinear(Programs& programs, const HeadLinearArgs& a);

}  // namespace tandem::cl
