#include "placement/cost.h"

#include <algorithm>
#include <cmath>

#include "memory/error.h"
#include "placement/cost_step.h"
#include "placement/deferral.h"

namespace tandem {
namespace {

// How far real speed may lie from the prediction, as factors; docs/placement.md says from what.
struct Range {
  double low = 1;
  double high = 1;
};

Range RangeOf(RatesOrigin origin) {
  switch (origin) {
    case RatesOrigin::kMeasured:
      return {0.75, 1.25};
    case RatesOrigin::kFile:
      return {0.6, 1.4};
    case RatesOrigin::kAssumed:
      break;
  }
  return {0.4, 2.0};
}

DType TypeOf(const TensorList& tensors, Role role, Part part) {
  for (const TensorInfo& tensor : tensors.all()) {
    if (tensor.role == role && tensor.part == part) return tensor.dtype;
  }
  return DType::kBF16;  // there is none: no seconds are asked for either
}

LayerShares SharesOf(std::vector<double> share, double experts_per_token) {
  LayerShares shares;
  shares.share = std::move(share);
  const auto [least, most] = std::ranges::minmax(shares.share);
  shares.uniform = most - least <= 1e-9;
  for (const double s : shares.share) {
    // An expert that every row takes has log(0); a tiny rest keeps sums finite.
    const double miss = std::max(1e-12, 1 - experts_per_token * s);
    shares.log_miss.push_back(std::log(miss));
  }
  return shares;
}

}  // namespace

CostModel::CostModel(const Config& config, const TensorList& tensors, const Machine& machine,
                     const RoutingStatistics* statistics)
    : config_(config), machine_(machine), has_statistics_(statistics != nullptr) {
  types_.attention = TypeOf(tensors, Role::kAttention, Part::kO);
  types_.dense = TypeOf(tensors, Role::kDense, Part::kGate);
  types_.router = TypeOf(tensors, Role::kRouter, Part::kRouterWeight);
  types_.shared = TypeOf(tensors, Role::kShared, Part::kGate);
  types_.experts = TypeOf(tensors, Role::kRouted, Part::kGate);
  types_.head = TypeOf(tensors, Role::kHead, Part::kLmHead);
  const auto experts = static_cast<std::size_t>(config.n_routed_experts);
  const double uniform =
      1.0 / static_cast<double>(std::max<std::int64_t>(1, config.n_routed_experts));
  for (std::size_t phase = 0; phase < kNumPhases; ++phase) {
    for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      LayerShares& shares = shares_[phase].emplace_back();
      if (!config.IsMoeLayer(layer)) continue;
      shares = SharesOf(statistics != nullptr ? statistics->Shares(static_cast<Phase>(phase), layer)
                                              : std::vector<double>(experts, uniform),
                        static_cast<double>(config.num_experts_per_tok));
    }
  }
}

StepCost CostModel::Step(const Plan& plan, Phase phase, std::int64_t rows, double keys,
                         std::int64_t logits) const {
  const StepRows step{static_cast<double>(rows), keys, static_cast<double>(logits)};
  StepEstimate estimate(config_, types_, machine_, plan, step);
  estimate.Embed();
  const std::vector<LayerShares>& shares = shares_[static_cast<std::size_t>(phase)];
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const StepCost before = estimate.cost();
    estimate.Attention(plan.layers[layer]);
    if (plan.layers[layer].moe) {
      estimate.Moe(plan.layers[layer], shares[layer]);
    } else {
      estimate.Dense(plan.layers[layer]);
    }
    const bool late =
        layer > 0 && rows <= kDeferredRows && DefersSum(config_, plan, static_cast<int>(layer) - 1);
    if (late) estimate.Defer(before);
  }
  estimate.Head();
  return estimate.Take();
}

// Chunks differ in the keys before them only, and their cost is close to linear in these: the
// first and the last full chunk tell the rest.
double CostModel::PrefillSeconds(const Plan& plan, std::int64_t tokens) const {
  const std::int64_t chunk = std::min(plan.max_rows, tokens);
  if (chunk <= 0) return 0;
  const std::int64_t full = tokens / chunk;
  const std::int64_t rest = tokens % chunk;
  const auto step = [&](std::int64_t from, std::int64_t rows) {
    const double keys = static_cast<double>(from) + static_cast<double>(rows + 1) / 2;
    return Step(plan, Phase::kPrefill, rows, keys, from + rows == tokens ? 1 : 0).seconds;
  };
  double seconds = step(0, chunk);
  if (full > 1) {
    seconds = (seconds + step((full - 1) * chunk, chunk)) / 2 * static_cast<double>(full);
  }
  if (rest > 0) seconds += step(full * chunk, rest);
  return seconds;
}

double CostModel::WorkloadSeconds(const Plan& plan, const Workload& w) const {
  const auto sequences = static_cast<double>(w.sequences);
  double seconds = sequences * PrefillSeconds(plan, w.prompt_tokens);
  if (w.answer_tokens > 0) {
    const double keys =
        static_cast<double>(w.prompt_tokens) + static_cast<double>(w.answer_tokens) / 2;
    seconds += static_cast<double>(w.answer_tokens) *
               Step(plan, Phase::kDecode, w.sequences, keys, w.sequences).seconds;
  }
  return seconds;
}

Prediction CostModel::Predict(const Plan& plan, const Workload& w) const {
  Prediction p;
  p.sequences = static_cast<double>(w.sequences);
  p.prompt_tokens = static_cast<double>(w.prompt_tokens);
  p.answer_tokens = static_cast<double>(w.answer_tokens);
  const Range range = RangeOf(machine_.rates.origin);
  if (w.prompt_tokens > 0) {
    const std::int64_t chunk = std::min(plan.max_rows, w.prompt_tokens);
    p.prefill_step = Step(plan, Phase::kPrefill, chunk, (p.prompt_tokens + 1) / 2, 0);
    p.time_to_first_token_s = PrefillSeconds(plan, w.prompt_tokens);
    p.prefill_tokens_per_s = p.prompt_tokens / p.time_to_first_token_s;
  }
  const double keys = p.prompt_tokens + std::max(1.0, p.answer_tokens / 2);
  p.decode_step = Step(plan, Phase::kDecode, w.sequences, keys, w.sequences);
  p.decode_tokens_per_s = p.sequences / p.decode_step.seconds;
  p.prefill_low = range.low * p.prefill_tokens_per_s;
  p.prefill_high = range.high * p.prefill_tokens_per_s;
  p.decode_low = range.low * p.decode_tokens_per_s;
  p.decode_high = range.high * p.decode_tokens_per_s;
  p.device_hit_rate = DeviceHitRate(*this, plan, Phase::kDecode);
  p.statistics = has_statistics_;
  switch (machine_.rates.origin) {
    case RatesOrigin::kMeasured:
      p.rates = "measured " + machine_.rates.when;
      break;
    case RatesOrigin::kFile:
      p.rates = "of the machine file";
      break;
    case RatesOrigin::kAssumed:
      p.rates = "assumed";
      break;
  }
  return p;
}

double DeviceHitRate(const CostModel& cost, const Plan& plan, Phase phase) {
  double hits = 0;
  double layers = 0;
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const std::vector<Place>& experts = plan.layers[layer].experts;
    if (experts.empty()) continue;
    const std::vector<double>& shares = cost.Shares(phase, static_cast<std::int64_t>(layer));
    for (std::size_t e = 0; e < experts.size(); ++e) {
      if (experts[e].on_device()) hits += shares[e];
    }
    layers += 1;
  }
  return layers > 0 ? hits / layers : 0;
}

std::string_view Name(Limit limit) {
  switch (limit) {
    case Limit::kHostMemory:
      return "host memory";
    case Limit::kHostArithmetic:
      return "CPU arithmetic";
    case Limit::kDeviceMemory:
      return "device memory";
    case Limit::kDeviceArithmetic:
      return "device arithmetic";
    case Limit::kDeviceLaunches:
      return "device launches";
    case Limit::kTransfer:
      return "transfers";
    case Limit::kHandOver:
      return "hand-over";
  }
  return "";
}

}  // namespace tandem
