#pragma once

#include "placement/planner.h"

namespace tandem {

// What this runtime can do; plans are made for it.
inline constexpr Abilities kAbilities{.devices = 8, .stream_prefill = true};

}  // namespace tandem
