#include "runtime/measure_layer.h"

#include <algorithm>
#include <cstring>

#include "memory/error.h"
#include "model/quantize.h"

namespace tandem {
namespace {

constexpr std::int64_t kMostRows = 512;    // of a step
constexpr std::int64_t kTypicalTopK = 8;   // experts that share one row's activations
constexpr std::int64_t kOwnSequences = 8;  // up to so many rows are decoded side by side
// 0.065 in f16, twice the byte. Memory that nobody wrote would be one page of zeros.
constexpr int kSmallF16 = 0x2C;

void Fill(float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = 0.01F + 0.001F * static_cast<float>(i % 7);
}

Plan WithOneLayer(Plan plan) {
  plan.layers.resize(1);
  plan.layers[0].moe = true;
  plan.layers[0].experts.resize(1);
  return plan;
}

}  // namespace

Config HostLayerBench::AttentionConfig(std::int64_t heads) {
  Config c;
  c.hidden_size = c.moe_intermediate_size = 64;
  c.num_hidden_layers = 1;
  c.num_attention_heads = c.num_key_value_heads = heads;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = c.v_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.n_routed_experts = c.num_experts_per_tok = 1;
  return c;
}

Config HostLayerBench::ExpertsConfig(std::int64_t D, std::int64_t F, std::int64_t pairs) {
  Config c = AttentionConfig(1);
  c.hidden_size = D;
  c.moe_intermediate_size = F;
  c.num_experts_per_tok = (pairs + kMostRows - 1) / kMostRows;
  return c;
}

HostLayerBench::HostLayerBench(MeasuredWeights& weights, const Config& config, Plan plan)
    : weights_(weights),
      config_(config),
      plan_(WithOneLayer(std::move(plan))),
      host_(plan_, config_),
      forward_(config_, plan_, layers_, host_, {}),
      feed_forward_(forward_),
      attention_(forward_) {
  TANDEM_CHECK(plan_.max_rows <= kMostRows);
  layers_.layers.resize(1);
  Fill(forward_.h.row(0), plan_.max_rows * config_.hidden_size);
  for (std::int64_t t = 0; t < plan_.max_rows; ++t) {
    forward_.h.Shade(host_.kernels, t, 0, config_.hidden_size);
  }
  Fill(attention_.q_.row(0), plan_.max_rows * attention_.q_.stride());
  const HostBuffer& kv = forward_.kv[0].host;
  host_.pool.Run([&](const Worker& w) {
    const std::size_t first = kv.bytes() * w.index / w.count;
    const std::size_t last = kv.bytes() * (w.index + 1) / w.count;
    std::memset(kv.data() + first, kSmallF16, last - first);
  });
}

void HostLayerBench::PrepareExperts(DType type, std::int64_t experts, std::int64_t rows,
                                    std::int64_t F) {
  const std::int64_t D = config_.hidden_size;
  const std::int64_t T = std::clamp(experts * rows / kTypicalTopK, rows, kMostRows);
  experts_.clear();
  mlps_.clear();
  rows_.resize(experts * rows);
  row_weights_.assign(rows, 1.0F);
  for (std::int64_t e = 0; e < experts; ++e) {
    MlpWeights& w = experts_.emplace_back();
    w.gate = weights_.Next(type, F, D);
    w.up = weights_.Next(type, F, D);
    w.down = weights_.Next(FittingFormat(type, F), D, F);
    // Ascending rows of the step, other ones for the next expert.
    const std::int64_t step = T / rows;
    for (std::int64_t i = 0; i < rows; ++i) {
      rows_[e * rows + i] = static_cast<std::int32_t>(i * step + e % step);
    }
  }
  for (std::int64_t e = 0; e < experts; ++e) {
    mlps_.push_back(
        {&experts_[e], rows, rows_.data() + e * rows, row_weights_.data(), e * rows * F});
  }
}

void HostLayerBench::RunExperts() {
  feed_forward_.RunOnHost(mlps_, forward_.x.host(), config_.hidden_size);
}

std::int32_t HostLayerBench::NextBlocks(std::int64_t n) {
  TANDEM_CHECK(n <= plan_.kv_blocks);
  if (next_block_ + n > plan_.kv_blocks) next_block_ = 0;
  const auto first = static_cast<std::int32_t>(next_block_);
  next_block_ += n;
  return first;
}

void HostLayerBench::PrepareAttention(std::int64_t rows, std::int64_t keys) {
  const std::int64_t head_rows = config_.qk_nope_head_dim + config_.v_head_dim;
  layers_.layers[0].attention.kv_b = weights_.Next(
      DType::kBF16, config_.num_attention_heads * head_rows, config_.kv_lora_rank, head_rows);
  n_keys_.assign(rows, static_cast<std::int32_t>(keys));
  table_start_.clear();
  tables_.clear();
  const std::int64_t blocks = (keys + kKvBlock - 1) / kKvBlock;
  for (std::int64_t t = 0; t < rows; ++t) {
    if (t == 0 || rows <= kOwnSequences) {
      const std::int32_t first = NextBlocks(blocks);
      for (std::int64_t i = 0; i < blocks; ++i) {
        tables_.push_back(first + static_cast<std::int32_t>(i));
      }
    }
    table_start_.push_back(static_cast<std::int32_t>(std::ssize(tables_) - blocks));
  }
  forward_.batch.T = rows;
  forward_.batch.n_keys = n_keys_;
  forward_.batch.table_start = table_start_;
  forward_.batch.tables = tables_;
}

void HostLayerBench::RunAttention() { attention_.AttendOnHost(0); }

}  // namespace tandem
