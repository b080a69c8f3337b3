#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// router_shared.cl, as Kernels::RouterAndShared has it. False: nothing was enqueued.
bool LaunchedRouterAndShared(Programs& programs, const LinearArgs& scores, const RouterArgs& a,
                             const GroupArgs& g, const ExpertsArgs& experts, const Weight& gate,
                             const Weight& up);

}  // namespace tandem::cl
