#pragma once

#include <cstdint>

#include "memory/cl_device.h"
#include "memory/cl_wait.h"

namespace tandem {

// A device that says nothing of a step for so long is lost. A step of few rows takes milliseconds;
// a chunk of a long prompt takes seconds, on a slow device minutes.
inline constexpr std::int64_t kWatchdogFewRows = 32;
inline constexpr Seconds kDecodeWatchdog{30};
inline constexpr Seconds kPrefillWatchdog{300};
// After a step that failed, for what the queue still holds.
inline constexpr Seconds kDrainWatchdog{5};

// For a look at a device that was lost, before it is opened again.
inline constexpr Seconds kDeviceCheckLimit{5};

// Of a step of so many rows. A device that is a CPU always has the longer time: it compiles a
// kernel when that is first enqueued, and shares its cores with whatever else runs. The
// environment's TANDEM_WATCHDOG_S replaces all of them.
Seconds WatchdogOf(std::int64_t rows, const ClDeviceInfo& device);
Seconds DrainWatchdog();

}  // namespace tandem
