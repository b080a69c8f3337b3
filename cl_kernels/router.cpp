#include "cl_kernels/router.h"

#include "cl_kernels/launch.h"

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

}  // namespace

void LaunchRouter(Programs& programs, const RouterArgs& a) {
  if (a.E > kMaxExperts || a.n_group > kMaxGroups) {
    Throw<OpenClError>(
        "router of {} experts in {} groups: the OpenCL kernel holds {} in {}; run it "
        "on the CPU (--device none)",
        a.E, a.n_group, kMaxExperts, kMaxGroups);
  }
  if (a.T <= 0) return;
  const bool has_bias = a.bias.buffer != nullptr;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "router_f32");
  Arguments(kernel).Set(a.logits, has_bias ? a.bias : a.logits, cl_int{has_bias}, a.ids, a.weights,
                        static_cast<cl_int>(a.E), static_cast<cl_int>(a.K),
                        static_cast<cl_int>(a.n_group), static_cast<cl_int>(a.topk_group),
                        cl_int{a.scoring}, cl_int{a.method}, cl_int{a.norm_topk_prob},
                        WeightFactor(a));
  Enqueue(programs, kernel, {1, a.T, 1}, kRouterGroup);
}

}  // namespace tandem::cl
