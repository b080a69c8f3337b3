#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// elementwise.cl
void LaunchSwiglu(Programs& programs, const SwigluArgs& a);
void LaunchAdd(Programs& programs, const AddArgs& a);
void LaunchExpertCombine(Programs& programs, const ExpertCombineArgs& a);

}  // namespace tandem::cl
