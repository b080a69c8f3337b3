#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// panels.cl: a matrix out of the CPU's panels, in bf16.
void LaunchPanels(Programs& programs, const PanelsArgs& a);

}  // namespace tandem::cl
