#pragma once

#include <optional>

#include "memory/cl_device.h"

namespace tandem {

// The OpenCL device that --device names for a command about one device; else the first that is no
// CPU, else the first. Throws OpenClError.
ClDeviceInfo ChooseClDevice(std::optional<int> wanted);

}  // namespace tandem
