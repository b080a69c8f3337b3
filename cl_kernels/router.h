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

// As rule_t.
struct RouterRule {
  cl_int E, K, n_group, topk_group, scoring, method, normalise;
  float factor;
};
RouterRule RuleOf(const RouterArgs& a);
// That the two are of one row and the kernel takes them.
void CheckLists(const RouterArgs& a, const GroupArgs& g);

}  // namespace tandem::cl
