#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

void LaunchMlaAppend(Programs& programs, const MlaAppendArgs& a);
void LaunchMlaQuery(Programs& programs, const MlaQueryArgs& a);
void LaunchMlaAttention(Programs& programs, const MlaAttentionArgs& a);
void LaunchMlaOutput(Programs& programs, const MlaOutputArgs& a);

// Builds what LaunchedMlaOneRow needs, where it may be taken.
void PrepareMlaOneRow(Programs& programs, DType weights);
bool LaunchedMlaOneRow(Programs& programs, const MlaQueryArgs& query, const MlaAttentionArgs& keys,
                       const MlaOutputArgs& out);

}  // namespace tandem::cl
