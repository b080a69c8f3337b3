#include "cpu_kernels/router.h"

#include <cmath>
#include <cstddef>
#include <limits>

#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

constexpr std::int64_t kMaxExperts = 1024;
constexpr std::int64_t kMaxGroups = 64;
constexpr float kDropped = -std::numeric_limits<float>::infinity();

void Softmax(const float* logits, std::int64_t n, float* out) {
  float maximum = logits[0];
  for (std::int64_t i = 1; i < n; ++i) maximum = std::fmax(maximum, logits[i]);
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = std::exp(logits[i] - maximum);
    sum += out[i];
  }
  for (std::int64_t i = 0; i < n; ++i) out[i] /= sum;
}

void Sigmoid(const float* logits, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = 1.0F / (1.0F + std::exp(-logits[i]));
}

// The first index of the largest value among those not taken yet.
std::int64_t ArgMax(const float* values, const bool* taken, std::int64_t n) {
  std::int64_t best = -1;
  for (std::int64_t i = 0; i < n; ++i) {
    if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
  }
  return best;
}

float Largest(const float* values, std::int64_t n) {
  float largest = kDropped;
  for (std::int64_t i = 0; i < n; ++i) largest = std::fmax(largest, values[i]);
  return largest;
}

float SumOfTwoLargest(const float* values, std::int64_t n) {
  if (n == 1) return values[0];
  float first = kDropped;
  float second = kDropped;
  for (std::int64_t i = 0; i < n; ++i) {
    if (values[i] > first) {
      second = first;
      first = values[i];
    } else {
      second = std::fmax(second, values[i]);
    }
  }
  return first + second;
}

// Sets the selection scores of the groups that are not among the best topk_group to -inf.
void DropGroups(const RouterArgs& args, float* selection) {
  const std::int64_t size = args.E / args.n_group;
  float scores[kMaxGroups];
  bool kept[kMaxGroups] = {};
  for (std::int64_t g = 0; g < args.n_group; ++g) {
    const float* group = selection + g * size;
    scores[g] =
        args.method == TopkMethod::kNoauxTc ? SumOfTwoLargest(group, size) : Largest(group, size);
  }
  for (std::int64_t i = 0; i < args.topk_group; ++i) {
    kept[ArgMax(scores, kept, args.n_group)] = true;
  }
  for (std::int64_t e = 0; e < args.E; ++e) {
    if (!kept[e / size]) selection[e] = kDropped;
  }
}

void SelectionScores(const RouterArgs& args, const float* scores, float* selection) {
  const bool biased = args.method == TopkMethod::kNoauxTc && args.bias != nullptr;
  for (std::int64_t e = 0; e < args.E; ++e) {
    selection[e] = biased ? scores[e] + args.bias[e] : scores[e];
  }
  if (args.method != TopkMethod::kGreedy) DropGroups(args, selection);
}

void ScaleWeights(const RouterArgs& args, float* weights) {
  if (args.norm_topk_prob) {
    float sum = 0;
    for (std::int64_t i = 0; i < args.K; ++i) sum += weights[i];
    for (std::int64_t i = 0; i < args.K; ++i) weights[i] /= sum + 1e-20F;
  }
  if (args.norm_topk_prob && !args.scale_normalised && args.K > 1) return;
  for (std::int64_t i = 0; i < args.K; ++i) weights[i] *= args.routed_scaling_factor;
}

void OneRow(const RouterArgs& args, std::int64_t t) {
  float scores[kMaxExperts];
  float selection[kMaxExperts];
  bool taken[kMaxExperts] = {};
  const float* logits = args.logits + t * args.logits_stride;
  (args.scoring == ScoringFunc::kSoftmax ? Softmax : Sigmoid)(logits, args.E, scores);
  SelectionScores(args, scores, selection);
  for (std::int64_t i = 0; i < args.K; ++i) {
    const std::int64_t e = ArgMax(selection, taken, args.E);
    taken[e] = true;
    args.ids[t * args.K + i] = static_cast<std::int32_t>(e);
    args.weights[t * args.K + i] = scores[e];
  }
  ScaleWeights(args, args.weights + t * args.K);
}

}  // namespace

void Router(const RouterArgs& args) {
  for (std::int64_t t = 0; t < args.T; ++t) OneRow(args, t);
}

}  // namespace tandem::cpu::ref
