#pragma once

#include <string>
#include <vector>

#include "placement/fill_plan.h"

namespace tandem {

// What the devices' largest buffers (CL_DEVICE_MAX_MEM_ALLOC_SIZE) keep from a plan that uses them,
// a sentence each: rows of its steps, and what stays on the host though it may go to a device.
std::vector<std::string> BufferNotes(const PlanInput& input, const Resources& resources,
                                     const Plan& plan);

}  // namespace tandem
