#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cl_kernels/device_traits.h"

namespace tandem {

// `traits` with changes "name=value" of what may be tuned: teams, wide_rows, max_rows, group,
// few_rows_max, wide_min_groups. Throws UsageError for another name, and for a value that the
// kernels or a work-group of at most `most_items` work-items do not take.
cl::DeviceTraits WithTraits(cl::DeviceTraits traits, const std::vector<std::string>& changes,
                            std::uint64_t most_items);

}  // namespace tandem
