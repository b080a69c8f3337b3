#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dtype.h"
#include "model/config.h"
#include "model/tensor_list.h"
#include "placement/machine.h"
#include "placement/plan.h"
#include "placement/statistics.h"

namespace tandem {

// What a user does with the model: `sequences` at a time, each a prompt and an answer.
struct Workload {
  std::int64_t sequences = 1;
  std::int64_t prompt_tokens = 1024;
  std::int64_t answer_tokens = 256;
};

// Weight formats by role, of the first tensor of each.
struct RoleTypes {
  DType attention = DType::kBF16;
  DType dense = DType::kBF16;
  DType router = DType::kBF16;
  DType shared = DType::kBF16;
  DType experts = DType::kBF16;
  DType head = DType::kBF16;
};

// Shares of a layer's choices, in the form that the expected loads are computed from.
struct LayerShares {
  std::vector<double> share;     // [experts], sums to 1; empty for a dense layer
  std::vector<double> log_miss;  // log(1 - chance that a row takes the expert)
  bool uniform = true;
};

// Predicts the time of steps under a plan. The equations are in docs/placement.md. Reads the
// config, the tensors' types, the machine's rates and routing shares once; then a step costs
// microseconds to predict, and nothing is allocated.
class CostModel {
 public:
  // `statistics` may be null: uniform routing. All arguments outlive this.
  CostModel(const Config& config, const TensorList& tensors, const Machine& machine,
            const RoutingStatistics* statistics);

  // A step of `rows` rows that attend to `keys` keys each on average; `sequences` tells how many of
  // the rows want logits (1 for a prefill chunk, all of them in decode).
  StepCost Step(const Plan& plan, Phase phase, std::int64_t rows, double keys,
                std::int64_t logits) const;

  // Prefill and decode of a workload under the plan, with ranges and limits.
  Prediction Predict(const Plan& plan, const Workload& workload) const;

  // Seconds that the workload takes from the first prompt token to the last answer token, the
  // planner's objective: prefill of all prompts and decode of all answers side by side.
  double WorkloadSeconds(const Plan& plan, const Workload& workload) const;

  // Share of a layer's choices that fall on each expert; empty for a dense layer.
  const std::vector<double>& Shares(Phase phase, std::int64_t layer) const {
    return shares_[static_cast<std::size_t>(phase)][static_cast<std::size_t>(layer)].share;
  }
  bool has_statistics() const { return has_statistics_; }

 private:
  double PrefillSeconds(const Plan& plan, std::int64_t tokens) const;

  const Config& config_;
  const Machine& machine_;
  RoleTypes types_;
  std::array<std::vector<LayerShares>, kNumPhases> shares_;  // [phase][layer]
  bool has_statistics_ = false;
};

// Expected share of the expert choices of a phase whose expert lies on a device.
double DeviceHitRate(const CostModel& cost, const Plan& plan, Phase phase);

}  // namespace tandem
