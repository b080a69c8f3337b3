#pragma once

#include "placement/plan.h"

namespace tandem {

// Throws OpenClError (exit 69) if a place needs more than its budget: a table of places, the
// largest item that could move, and what would make it fit.
void CheckFits(const Plan& plan);

}  // namespace tandem
