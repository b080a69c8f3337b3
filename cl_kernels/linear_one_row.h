#pragma once

#include <functional>
#include <string_view>

#include "cl_kernels/args.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// A product of one row by one_row_mma.cl or one_row.cl; false: not for this device or this product,
// and nothing was enqueued. Of a norm it makes x' itself.
bool LaunchedOneRow(Programs& programs, const LinearArgs& a);
// The same by a kernel of one_row.cl whose arguments behind linear_one's `rest` sets.
bool LaunchedOneRow(Programs& programs, const LinearArgs& a, std::string_view kernel,
                    const std::function<void(Arguments&)>& rest);

}  // namespace tandem::cl
