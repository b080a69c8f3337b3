#pragma once

#include "placement/machine.h"
#include "runtime/measure_meter.h"

namespace tandem {

// How many stages MeasureDevice reports.
inline constexpr int kDeviceStages = 5;

// One OpenCL device's side of placement/rates.h. Throws OpenClError.
DeviceRates MeasureDevice(const Machine& machine, const Device& device, Meter& meter);

}  // namespace tandem
