#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// group.cl: one work-group. At most 512 experts and a shared one; a.tiles.offset % 4 == 0.
void LaunchGroup(Programs& programs, const GroupArgs& a);

}  // namespace tandem::cl
