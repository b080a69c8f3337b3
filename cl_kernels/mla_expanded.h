#pragma once

#include <cstdint>

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// Builds what the expanded form needs beside Program::kMla and kMlaHeads, where it may pay.
void PrepareMlaExpanded(Programs& programs);
// Where LeastExpandedRows has its say: on matrix units there have to be half as many work-groups
// as compute units, and a GPU without the form for them keeps to the absorbed form.
bool MlaExpandedPays(Programs& programs, const MlaExpandedArgs& a);
void LaunchMlaExpanded(Programs& programs, const MlaExpandedArgs& a);

}  // namespace tandem::cl
