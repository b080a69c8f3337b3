#pragma once

#include "runtime/device_side.h"
#include "runtime/hand_over.h"

namespace tandem {

// Seconds that a layer loses to an empty hand-over of one row: published, awaited, delivered and
// taken as a decode step does it, with nothing to compute on either side. `hand_over` is between
// steps; h, the choice and x lie in the device's memory for the time of the call.
double MeasureHandOver(DeviceSide& side, HandOver& hand_over, const HandOverShape& shape);

}  // namespace tandem
