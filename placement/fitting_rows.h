#pragma once

#include <cstdint>

#include "placement/fill_plan.h"

namespace tandem {

// The most rows of a step, `rows` or a half of it again and again but no fewer than kLeastFitting,
// whose activations fit into buffers of the first device, where all that may go there does. What
// needs a larger buffer for the fewest rows, too, does not count: it stays on the host, or is
// refused.
inline constexpr std::int64_t kLeastFitting = 64;
std::int64_t FittingRows(const PlanInput& input, const Resources& resources, std::int64_t rows);

}  // namespace tandem
