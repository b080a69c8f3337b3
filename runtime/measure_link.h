#pragma once

#include "runtime/device_side.h"
#include "runtime/measure_meter.h"

namespace tandem {

// The way to a device and back: transfers of `bytes`, which `memory` has room for, launches,
// waiting. Fills those members of `rates`; `memory` is overwritten.
void MeasureLink(DeviceSide& side, cl_mem memory, std::size_t bytes, const Meter& meter,
                 DeviceRates& rates);

}  // namespace tandem
