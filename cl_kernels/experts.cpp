#include "cl_kernels/experts.h"

#include "cl_kernels/launch.h"
#include "cl_kernels/matmul.h"

namespace tandem::cl {
namespace {

constexpr MatmulForms kGateUpForms{"experts_gate_up_few_1", "experts_gate_up_few_1_narrow",
                                   "experts_gate_up_few", "experts_gate_up_few_narrow",
                                   "experts_gate_up_many"};
constexpr MatmulForms kDownForms{"experts_down_few_1", "experts_down_few_1_narrow",
                                 "experts_down_few", "experts_down_few_narrow",
                                 "experts_down_many"};

void LaunchGateUp(Programs& programs, const ExpertJobsArgs& a) {
  const MatmulLaunch launch =
      ChooseMatmul(kGateUpForms, programs.traits(), a.max_pairs, a.F, a.n_jobs);
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.dtype, launch.kernel);
  Arguments(kernel).Set(a.weights, a.jobs, a.D, a.F, a.pair_row, a.pair_weight, a.x, a.x_stride,
                        cl_int{Aligned16(a.x.offset, a.x_stride)}, a.act);
  Enqueue(programs, kernel, launch.groups, launch.group_size);
}

void LaunchDown(Programs& programs, const ExpertJobsArgs& a) {
  const MatmulLaunch launch =
      ChooseMatmul(kDownForms, programs.traits(), a.max_pairs, a.D, a.n_jobs);
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.dtype, launch.kernel);
  Arguments(kernel).Set(a.weights, a.jobs, a.D, a.F, a.act, cl_int{Aligned16(a.act.offset, a.F)},
                        a.pair_out);
  Enqueue(programs, kernel, launch.groups, launch.group_size);
}

}  // namespace

void LaunchExpertJobs(Programs& programs, const ExpertJobsArgs& a) {
  if (a.n_jobs <= 0 || a.max_pairs <= 0) return;
  LaunchGateUp(programs, a);
  LaunchDown(programs, a);
}

}  // namespace tandem::cl
