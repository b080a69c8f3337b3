#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/tensor_source.h"

namespace tandem {

class Engine;

// What the deferral of the CPU's sums (placement/deferral.h) does to the logits, measured over some
// tokens of a text: one row a step, each after the same tokens with deferral and without.
struct DeferralEffect {
  std::int64_t tokens = 0;
  std::int64_t same = 0;  // of them, whose largest logit is the same token's
  double divergence = 0;  // mean Kullback-Leibler divergence of a token, in nats
  double largest = 0;     // difference of two logits
};
// "deferral of the CPU's sum: of 32 greedy tokens 31 agree with those without it; ..."
std::string ToText(const DeferralEffect& effect);

// Tokens to measure with: of a short text where the model has a tokenizer, else scattered ids.
std::vector<std::int32_t> DeferralTokens(const Model& model);

// Runs the tokens twice, in sequences of their own that are gone afterwards. `defer` switches
// deferral for the steps that follow; `check` is called before each step and may throw.
DeferralEffect MeasureDeferral(Engine& engine, const std::vector<std::int32_t>& tokens,
                               const std::function<void(bool)>& defer,
                               const std::function<void()>& check);

}  // namespace tandem
