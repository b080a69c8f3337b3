#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// panel_split.cl: a matrix out of the CPU's panels, in the layout of devices.
void LaunchPanelSplit(Programs& programs, const PanelSplitArgs& a);

}  // namespace tandem::cl
