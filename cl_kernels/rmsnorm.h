#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// rmsnorm.cl
void LaunchRmsNorm(Programs& programs, const RmsNormArgs& a);

}  // namespace tandem::cl
