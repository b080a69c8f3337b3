#include "model/gguf_writer_config.h"

#include <cstdint>

#include "memory/error.h"

namespace tandem {
namespace {

// Numbers of llama.cpp's enumeration of gating functions.
constexpr std::uint32_t kSoftmax = 1;
constexpr std::uint32_t kSigmoid = 2;
// llama.cpp's loader divides by this again.
constexpr double kLogMultiplierUnit = 0.1;

// Adds keys under the architecture's name.
class Keys {
 public:
  Keys(std::string prefix, GgufKeyValues& metadata)
      : prefix_(std::move(prefix)), metadata_(metadata) {}

  void Int(std::string_view key, std::int64_t value) {
    metadata_.Add(prefix_ + std::string(key), static_cast<std::uint32_t>(value));
  }
  void Real(std::string_view key, double value) {
    metadata_.Add(prefix_ + std::string(key), static_cast<float>(value));
  }
  void Bool(std::string_view key, bool value) { metadata_.Add(prefix_ + std::string(key), value); }
  void Text(std::string_view key, std::string_view value) {
    metadata_.Add(prefix_ + std::string(key), value);
  }

 private:
  std::string prefix_;
  GgufKeyValues& metadata_;
};

void AddSizes(const Config& c, Keys& keys) {
  keys.Int("block_count", c.num_hidden_layers);
  keys.Int("context_length", c.max_position_embeddings);
  keys.Int("embedding_length", c.hidden_size);
  keys.Int("feed_forward_length", c.intermediate_size);
  keys.Int("vocab_size", c.vocab_size);
  keys.Int("attention.head_count", c.num_attention_heads);
  keys.Real("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
}

// In the split form attention is that of one head for all keys and values, the latent; in the joint
// form it is that of ordinary heads.
void AddMla(const Config& c, KvbForm form, Keys& keys) {
  const bool split = form == KvbForm::kSplit;
  if (c.q_lora_rank > 0) keys.Int("attention.q_lora_rank", c.q_lora_rank);
  keys.Int("attention.kv_lora_rank", c.kv_lora_rank);
  keys.Int("attention.head_count_kv", split ? 1 : c.num_attention_heads);
  keys.Int("attention.key_length", split ? c.kv_lora_rank + c.qk_rope_head_dim : c.qk_head_dim());
  keys.Int("attention.value_length", split ? c.kv_lora_rank : c.v_head_dim);
  if (!split) return;
  keys.Int("attention.key_length_mla", c.qk_head_dim());
  keys.Int("attention.value_length_mla", c.v_head_dim);
}

void AddMha(const Config& c, Keys& keys) {
  keys.Int("attention.head_count_kv", c.num_key_value_heads);
  keys.Int("attention.key_length", c.qk_head_dim());
  keys.Int("attention.value_length", c.v_head_dim);
}

void AddRope(const Config& c, Keys& keys) {
  keys.Int("rope.dimension_count", c.qk_rope_head_dim);
  keys.Real("rope.freq_base", c.rope_theta);
  if (!c.rope_scaling) return keys.Text("rope.scaling.type", "none");
  const RopeScaling& yarn = *c.rope_scaling;
  keys.Text("rope.scaling.type", "yarn");
  keys.Real("rope.scaling.factor", yarn.factor);
  keys.Int("rope.scaling.original_context_length", yarn.original_max_position_embeddings);
  keys.Real("rope.scaling.yarn_beta_fast", yarn.beta_fast);
  keys.Real("rope.scaling.yarn_beta_slow", yarn.beta_slow);
  keys.Real("rope.scaling.yarn_log_multiplier", kLogMultiplierUnit * yarn.mscale_all_dim);
}

void AddMoe(const Config& c, Keys& keys) {
  const bool moe = c.n_routed_experts > 0;
  keys.Int("leading_dense_block_count", moe ? c.first_k_dense_replace : c.num_hidden_layers);
  keys.Int("expert_count", c.n_routed_experts);
  keys.Int("expert_used_count", c.num_experts_per_tok);
  keys.Int("expert_shared_count", c.n_shared_experts);
  keys.Int("expert_feed_forward_length", moe ? c.moe_intermediate_size : c.intermediate_size);
  keys.Real("expert_weights_scale", c.routed_scaling_factor);
  keys.Bool("expert_weights_norm", c.norm_topk_prob);
  keys.Int("expert_gating_func", c.scoring_func == "sigmoid" ? kSigmoid : kSoftmax);
  if (c.n_group <= 1) return;
  keys.Int("expert_group_count", c.n_group);
  keys.Int("expert_group_used_count", c.topk_group);
}

}  // namespace

void CheckGgufConfig(const Config& config) {
  const bool v1 = config.family == Family::kDeepSeekMoe;
  if (!v1 && config.attention == AttentionKind::kMha) {
    Throw<CheckpointError>("{} without MLA (use_mla: false) has no form in GGUF",
                           config.model_type);
  }
  if (config.n_routed_experts > 0 && config.moe_layer_freq != 1) {
    Throw<CheckpointError>(
        "moe_layer_freq {}: GGUF has experts in every layer after the dense ones",
        config.moe_layer_freq);
  }
}

KvbForm KvbFormFor(const Config& config) {
  if (config.attention == AttentionKind::kMha) return KvbForm::kSplit;  // has no kv_b
  const bool known = config.kv_lora_rank == 512 && config.qk_rope_head_dim == 64 &&
                     config.num_attention_heads % 4 == 0;
  return known ? KvbForm::kSplit : KvbForm::kJoint;
}

void AddGgufConfig(const Config& config, KvbForm form, GgufKeyValues& metadata) {
  const bool mla = config.attention == AttentionKind::kMla;
  const std::string architecture = mla ? "deepseek2" : "deepseek";
  metadata.Add("general.architecture", architecture);
  Keys keys(architecture + ".", metadata);
  AddSizes(config, keys);
  mla ? AddMla(config, form, keys) : AddMha(config, keys);
  AddRope(config, keys);
  AddMoe(config, keys);
}

std::vector<std::string> LostInGguf(const Config& config) {
  std::vector<std::string> lost;
  const auto& yarn = config.rope_scaling;
  if (yarn && yarn->mscale != yarn->mscale_all_dim) {
    lost.push_back(fmt::format("rope_scaling.mscale {} (readers take it to be mscale_all_dim, {})",
                               yarn->mscale, yarn->mscale_all_dim));
  }
  if (config.num_nextn_predict_layers > 0) {
    lost.push_back(fmt::format("{} layer(s) for multi-token prediction are left out",
                               config.num_nextn_predict_layers));
  }
  return lost;
}

}  // namespace tandem
