#pragma once

#include <cstddef>
#include <string>

#include "memory/cl_device.h"

namespace tandem {

// A buffer that is there. Drivers may allocate at the first use, which would then fail in a step:
// both ends are written, and waited for. Throws DeviceMemoryError that names `what`, the bytes and
// the device.
ClBuffer AllocateTouched(const ClDevice& device, const std::string& what, std::size_t bytes,
                         cl_mem_flags flags = CL_MEM_READ_WRITE);

}  // namespace tandem
