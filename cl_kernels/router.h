#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// router.cl. Throws OpenClError for more experts or groups than the kernel holds (1024, 64).
void LaunchRouter(Programs& programs, const RouterArgs& a);
void LaunchRouterOneRow(Programs& programs, const RouterArgs& a, const GroupArgs& g);
// The product that makes the logits, and the same: one launch by router_linear.cl where it may.
void LaunchScoresAndRouter(Programs& programs, const LinearArgs& scores, const RouterArgs& a,
                           const GroupArgs& g);

}  // namespace tandem::cl
