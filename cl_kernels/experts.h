#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// experts.cl: gate and up with SwiGLU, then down; each in the form that max_pairs asks for.
void LaunchExpertJobs(Programs& programs, const ExpertJobsArgs& a);

}  // namespace tandem::cl
