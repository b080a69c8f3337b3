#pragma once

#include <cstdint>
#include <map>
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

  // Share of a layer's choices that fall on each expert in decode.
  const std::vector<double>& Shares(Phase phase, std::int64_t layer) const {
    return shares_[static_cast<int>(phase)][static_cast<std::size_t>(layer)];
  }

 private:
  struct LayerSizes;
  const Config& config_;
  const Machine& machine_;
  std::vector<std::vector<double>> shares_[kNumPhases];  // [layer][expert]
  DType attention_type_ = DType::kBF16;
  DType expert_type_ = DType::kBF16;
  DType shared_type_ = DType::kBF16;
  DType dense_type_ = DType::kBF16;
  DType head_type_ = DType::kBF16;
  DType router_type_ = DType::kBF16;
};

}  // namespace tandem
