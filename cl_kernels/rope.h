#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// rope.cl
void LaunchRope(Programs& programs, const RopeArgs& a);

}  // namespace tandem::cl
