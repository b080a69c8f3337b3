#pragma once

#include <cstdint>
#include <vector>

#include "runtime/forward.h"
#include "runtime/measure_weights.h"

namespace tandem {

// A layer of no model, whose parts on the host are run by the engine's own code.
class HostLayerBench {
 public:
  // A team of the plan's nodes, and scratch for its max_rows and kv_blocks; one layer.
  HostLayerBench(MeasuredWeights& weights, const Config& config, Plan plan);

  // A model with experts of [F, D], for up to `pairs` pairs (row, expert) at a time.
  static Config ExpertsConfig(std::int64_t D, std::int64_t F, std::int64_t pairs);
  // MLA with R 512, rope 64, nope and v 128.
  static Config AttentionConfig(std::int64_t heads);

  // The next `experts` experts of [F, D] of the weights, each with `rows` rows.
  void PrepareExperts(DType type, std::int64_t experts, std::int64_t rows, std::int64_t F);
  void RunExperts();

  // Rows of a chunk share one sequence's keys; few rows are sequences of their own, as in decode.
  void PrepareAttention(std::int64_t rows, std::int64_t keys);
  void RunAttention();

 private:
  std::int32_t NextBlocks(std::int64_t n);

  MeasuredWeights& weights_;
  Config config_;
  Plan plan_;
  HostSide host_;
  Weights layers_;
  Forward forward_;
  FeedForward feed_forward_;
  Attention attention_;
  std::vector<MlpWeights> experts_;
  std::vector<std::int32_t> rows_;
  std::vector<float> row_weights_;
  std::vector<FeedForward::HostMlp> mlps_;
  std::vector<std::int32_t> n_keys_, table_start_, tables_;
  std::int64_t next_block_ = 0;
};

}  // namespace tandem
