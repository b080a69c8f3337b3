#include "cl_kernels/router.h"

#include "cl_kernels/launch.h"
#include "cl_kernels/linear.h"

namespace tandem::cl {
namespace {

// As in router.cl.
constexpr std::int64_t kMaxExperts = 1024;
constexpr std::int64_t kMaxGroups = 64;
constexpr std::int64_t kRouterGroup = 64;

// V2's rule "normalised, so not scaled", else the factor.
float WeightFactor(const RouterArgs& a) {
  const bool unscaled = !a.scale_normalised && a.norm_topk_prob && a.K > 1;
  return unscaled ? 1.0F : a.routed_scaling_factor;
}

void CheckSize(const RouterArgs& a) {
  if (a.E > kMaxExperts || a.n_group > kMaxGroups) {
    Throw<OpenClError>(
        "router of {} experts in {} groups: the OpenCL kernel holds {} in {}; run it "
        "on the CPU (--device none)",
        a.E, a.n_group, kMaxExperts, kMaxGroups);
  }
}

void SetRule(Arguments& arguments, const RouterArgs& a) {
  const bool has_bias = a.bias.buffer != nullptr;
  arguments.Set(a.logits, has_bias ? a.bias : a.logits, cl_int{has_bias}, a.ids, a.weights,
                static_cast<cl_int>(a.E), static_cast<cl_int>(a.K), static_cast<cl_int>(a.n_group),
                static_cast<cl_int>(a.topk_group), cl_int{a.scoring}, cl_int{a.method},
                cl_int{a.norm_topk_prob}, WeightFactor(a));
}

void SetLists(Arguments& arguments, const GroupArgs& g) {
  arguments.Set(g.table, g.tiles, g.n_tiles, g.pair_row, g.pair_weight, g.token_pairs,
                cl_int{g.shared});
}

}  // namespace

RouterRule RuleOf(const RouterArgs& a) {
  return {static_cast<cl_int>(a.E),
          static_cast<cl_int>(a.K),
          static_cast<cl_int>(a.n_group),
          static_cast<cl_int>(a.topk_group),
          a.scoring,
          a.method,
          a.norm_topk_prob,
          WeightFactor(a)};
}

void CheckLists(const RouterArgs& a, const GroupArgs& g) {
  CheckSize(a);
  TANDEM_CHECK(a.T == 1 && g.T == 1 && g.K == a.K && g.E == a.E && g.tiles.offset % 4 == 0);
}

void LaunchRouter(Programs& programs, const RouterArgs& a) {
  CheckSize(a);
  if (a.T <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "router_f32");
  Arguments arguments(kernel);
  SetRule(arguments, a);
  Enqueue(programs, kernel, {1, a.T, 1}, kRouterGroup);
}

void LaunchRouterOneRow(Programs& programs, const RouterArgs& a, const GroupArgs& g) {
  CheckLists(a, g);
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "router_one_row");
  Arguments arguments(kernel);
  SetRule(arguments, a);
  SetLists(arguments, g);
  Enqueue(programs, kernel, {1, 1, 1}, kRouterGroup);
}

void LaunchScoresAndRouter(Programs& programs, const LinearArgs& scores, const RouterArgs& a,
                           const GroupArgs& g) {
  CheckLists(a, g);
  TANDEM_CHECK(scores.T == 1 && scores.w.rows == a.E);
  const bool one = LaunchedOneRouted(programs, scores, [&](Arguments& arguments) {
    SetRule(arguments, a);
    SetLists(arguments, g);
  });
  if (one) return;
  LaunchLinear(programs, scores);
  LaunchRouterOneRow(programs, a, g);
}

}  // namespace tandem::cl
