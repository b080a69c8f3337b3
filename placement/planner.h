#pragma once

#include "model/config.h"
#include "model/tensor_list.h"
#include "placement/machine.h"
#include "placement/plan.h"
#include "placement/profile.h"

namespace tandem {

// A pure function: the same arguments give the same plan, and nothing is read or allocated.
//
// The device's budget is filled in this order, each whole or, for roles with layers, layer by layer
// from the first: attention with its KV cache, dense layers, router, shared experts, head, then
// routed experts in the profile's order, the same ids in every layer as far as they go. A role that
// the profile demands on the device and that does not fit is an error, not a fallback.
//
// Throws ConfigError if the profile asks for what the machine or model does not have, and
// OpenClError (exit 69) if the device is absent (listing those found) or the plan does not fit
// (with needed and free bytes per place, and the largest item that could move).
Plan MakePlan(const Config& config, const TensorList& tensors, const Machine& machine,
              const Profile& profile, Precision precision);

}  // namespace tandem
