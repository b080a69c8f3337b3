#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

enum class Family : std::uint8_t { kDeepSeekMoe, kDeepSeekV2, kDeepSeekV3 };
enum class AttentionKind : std::uint8_t { kMha, kMla };

// YaRN, as rope_scaling or rope_parameters give it.
struct RopeScaling {
  double factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
  std::int64_t original_max_position_embeddings = 4096;
};

// What config.json says, under its own names, checked against the ranges that are possible.
struct Config {
  std::string model_type;  // "deepseek", "deepseek_v2", "deepseek_v3"
  Family family = Family::kDeepSeekV3;
  AttentionKind attention = AttentionKind::kMla;

  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;  // MHA only
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  std::int64_t intermediate_size = 0;  // of the dense layers
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;

  // MLA; for MHA qk_nope_head_dim is 0 and qk_rope_head_dim == v_head_dim == head_dim.
  std::int64_t q_lora_rank = 0;  // 0: no low-rank query
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;
  std::int64_t v_head_dim = 0;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;  // YaRN only; other kinds are refused

  // MoE. n_routed_experts 0: every layer is dense.
  std::int64_t n_routed_experts = 0;
  std::int64_t n_shared_experts = 0;
  std::int64_t num_experts_per_tok = 0;
  std::int64_t moe_intermediate_size = 0;
  std::int64_t first_k_dense_replace = 0;
  std::int64_t moe_layer_freq = 1;
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  std::string scoring_func = "softmax";  // or "sigmoid"
  std::string topk_method = "greedy";    // or "group_limited_greedy", "noaux_tc"
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;

  std::int64_t num_nextn_predict_layers = 0;
  bool fp8 = false;  // quantization_config: quant_method fp8, e4m3, 128x128 blocks
  std::optional<std::int32_t> bos_token_id;
  std::vector<std::int32_t> eos_token_ids;  // config.json, and generation_config.json where present

  bool IsMoeLayer(std::int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
  std::int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  // Values cached per token and layer: the latent and the roped key, or all keys and values.
  std::int64_t kv_width() const {
    return attention == AttentionKind::kMla ? kv_lora_rank + qk_rope_head_dim
                                            : 2 * num_key_value_heads * v_head_dim;
  }
  // 1/sqrt(d), times mscale^2 under YaRN (architectures: V2 section 2.2).
  double softmax_scale() const;
  // Inverse frequencies [qk_rope_head_dim / 2], and the factor on cos and sin.
  std::vector<double> inv_freq() const;
  double rope_attention_factor() const;
};

// Parses and checks the text of config.json. `file` is used in messages only.
// Throws CheckpointError for JSON that is damaged, fields that are missing or impossible, and for
// architectures that are not supported (naming those that are).
Config ParseConfig(std::string_view json, const std::string& file);

// Reads config.json (and generation_config.json) of a model folder.
Config ReadConfig(const std::filesystem::path& model_dir);

}  // namespace tandem
