#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// hand_over.cl
void LaunchHandOverPublish(Programs& programs, const HandOverPublishArgs& a);
void LaunchHandOverTake(Programs& programs, const HandOverTakeArgs& a);
void LaunchHandOverAdd(Programs& programs, const HandOverAddArgs& a);

}  // namespace tandem::cl
