#pragma once

#include "runtime/device_side.h"
#include "runtime/hand_over.h"

namespace tandem {

// Seconds that a layer of one row loses to its hand-over, beyond two tiny launches: published,
// awaited, delivered and taken as a decode step does it, behind work of the device and with the
// next layer enqueued, while the host has nothing to compute. `hand_over` is between steps; h, the
// choice and x lie in the device's memory for the time of the call. Throws OpenClError.
double MeasureHandOver(DeviceSide& side, HandOver& hand_over, const HandOverShape& shape);

}  // namespace tandem
