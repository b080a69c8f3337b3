#pragma once

#include <cstdint>

#include "model/config.h"
#include "placement/plan.h"

namespace tandem {

// Deferral of the CPU's sum (Plan::deferral): in steps of few rows the sum of a MoE layer is added
// to the residual only after the next layer's attention and choice of experts, so that the first
// device computes those while the CPU is at work. With a for x after a layer's attention, d for
// what the first device's experts give and s for the sum that passes through the host (the CPU's
// part and that of further devices), of layers that all defer:
//     h(l) = norm(a(l)), whose experts are chosen; d(l) and s(l) are computed of h(l)
//     x(l) = a(l) + s(l - 1) + d(l), which is what layer l + 1 attends to
// Attention and experts of layer l + 1 thus see everything but s(l); layer l + 2 and the head see
// it.

// Steps of up to so many rows defer: those that are handed over by polling.
inline constexpr std::int64_t kDeferredRows = 32;

// Whether the layer passes between the first device and the CPU where nothing streams.
bool HandsOver(const Config& config, const Plan& plan, int layer);
// Whether its sum is deferred: this layer and the next hand over, and what is between them is on
// the first device.
bool DefersSum(const Config& config, const Plan& plan, int layer);
// How many layers' sums are deferred.
int DeferredLayers(const Config& config, const Plan& plan);

}  // namespace tandem
