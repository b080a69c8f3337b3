#pragma once

#include <cstdint>
#include <string>

#include "placement/plan_input.h"

namespace tandem {

// Why nothing may go to a device: what the least of all that could go there needs of it, what the
// device has, and the setting. `plan`: its steps and sequences.
std::string LeastNeed(const PlanInput& input, const Plan& plan, std::uint64_t budget,
                      std::uint64_t max_alloc);

}  // namespace tandem
