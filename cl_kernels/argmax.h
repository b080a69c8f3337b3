#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// argmax.cl: the largest logit of each row, in parts.
void LaunchArgmax(Programs& programs, const ArgmaxArgs& a);

}  // namespace tandem::cl
