#pragma once

#include <cstdint>

namespace tandem::cpu {

enum class ScoringFunc : std::uint8_t { kSoftmax, kSigmoid };
enum class TopkMethod : std::uint8_t {
  kGreedy,              // top-k of the scores
  kGroupLimitedGreedy,  // V2: groups by their largest score, then top-k inside the kept groups
  kNoauxTc,             // V3: selection on score + bias, groups by the sum of their two largest
};

// Chooses experts for T rows from the router's logits (DeepSeek-V2 section 2.1.2, V3
// section 2.1.2).
//   logits : f32 [T, E], stride logits_stride     bias : f32 [E] or null (e_score_correction_bias)
//   ids    : i32 [T, K]   weights : f32 [T, K], in the order of falling selection score
// Scores are softmax(logits) over all E, or sigmoid, in f32. Groups that are dropped count as -inf.
// Between equal values the lower index wins, for groups and experts alike (the same on every side).
// Weights are the scores without bias; norm_topk_prob divides them by (sum + 1e-20); the factor
// routed_scaling_factor multiplies them unless this is V2's rule "normalised, so not scaled"
// (scale_normalised false and norm_topk_prob true and K > 1).
//   1 <= K <= E <= 1024, E % n_group == 0, n_group <= 64, topk_group <= n_group; checked by caller.
struct RouterArgs {
  const float* logits = nullptr;
  std::int64_t logits_stride = 0;
  const float* bias = nullptr;
  std::int32_t* ids = nullptr;
  float* weights = nullptr;
  std::int64_t T = 0;
  std::int64_t E = 0;
  std::int64_t K = 0;
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  ScoringFunc scoring = ScoringFunc::kSoftmax;
  TopkMethod method = TopkMethod::kGreedy;
  bool norm_topk_prob = false;
  bool scale_normalised = true;
  float routed_scaling_factor = 1;
};

}  // namespace tandem::cpu
