#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// kv_append.cl
void LaunchKvAppend(Programs& programs, const KvAppendArgs& a);

}  // namespace tandem::cl
