#include "model/gguf_config.h"

#include <algorithm>
#include <array>

#include "memory/error.h"
#include "model/config_check.h"
#include "model/config_range.h"
#include "model/tokenizer_bytes.h"

namespace tandem {
namespace {

using namespace config_range;

constexpr std::string_view kMoeArchitecture = "deepseek";
constexpr std::string_view kMlaArchitecture = "deepseek2";

// llama.cpp's numbers of the functions that make scores of the router's logits.
constexpr std::int64_t kSoftmax = 1;
constexpr std::int64_t kSigmoid = 2;
// yarn_log_multiplier is a tenth of mscale_all_dim.
constexpr double kLogMultipliers = 10;

// The metadata of one architecture: keys begin with its name.
class Keys {
 public:
  Keys(const GgufMetadata& all, std::string_view architecture)
      : all_(all), prefix_(fmt::format("{}.", architecture)) {}

  bool Has(std::string_view key) const { return all_.Has(prefix_ + std::string(key)); }
  std::int64_t Int(std::string_view key, IntRange range,
                   std::optional<std::int64_t> absent = std::nullopt) const {
    return all_.Int(prefix_ + std::string(key), range, absent);
  }
  double Real(std::string_view key, RealRange range,
              std::optional<double> absent = std::nullopt) const {
    return all_.Real(prefix_ + std::string(key), range, absent);
  }
  bool Bool(std::string_view key, bool absent) const {
    return all_.Bool(prefix_ + std::string(key), absent);
  }
  std::string_view String(std::string_view key, std::string_view absent) const {
    return all_.String(prefix_ + std::string(key), absent);
  }
  std::string Where(std::string_view key) const { return all_.Where(prefix_ + std::string(key)); }

 private:
  const GgufMetadata& all_;
  std::string prefix_;
};

// Files from before the key have as many tokens as the embedding has rows.
std::int64_t VocabSize(const Gguf& gguf, const Keys& k) {
  if (k.Has("vocab_size")) return k.Int("vocab_size", kVocab);
  const GgufTensor* embedding = gguf.Find("token_embd.weight");
  if (embedding == nullptr || embedding->ne.size() != 2) return k.Int("vocab_size", kVocab);
  return std::clamp(embedding->ne[1], kVocab.low, kVocab.high);
}

void ReadSizes(const Gguf& gguf, const Keys& k, Config* c) {
  c->hidden_size = k.Int("embedding_length", kWidth);
  // Blocks for multi-token prediction stand behind the others, and are counted among them.
  c->num_nextn_predict_layers = k.Int("nextn_predict_layers", kMtpLayers, 0);
  const std::int64_t blocks = k.Int("block_count", {1, kLayers.high + kMtpLayers.high});
  c->num_hidden_layers = blocks - c->num_nextn_predict_layers;
  if (c->num_hidden_layers < kLayers.low || c->num_hidden_layers > kLayers.high) {
    Throw<CheckpointError>(
        "{}: expected {} to {} blocks besides {} for multi-token prediction, "
        "found {}",
        k.Where("block_count"), kLayers.low, kLayers.high, c->num_nextn_predict_layers, blocks);
  }
  c->num_attention_heads = k.Int("attention.head_count", kHeads);
  c->vocab_size = VocabSize(gguf, k);
  c->max_position_embeddings = k.Int("context_length", kPositions);
  c->intermediate_size = k.Int("feed_forward_length", kWidth);
  c->rms_norm_eps = k.Real("attention.layer_norm_rms_epsilon", kEps, 1e-6);
  c->tie_word_embeddings = gguf.Find("output.weight") == nullptr;
}

// Newer files describe attention on the latent in key_length and value_length, and give the sizes
// of the heads in keys of their own; older ones give the heads' sizes in the first place.
void ReadMla(const Keys& k, Config* c) {
  c->num_key_value_heads = c->num_attention_heads;  // of no meaning in MLA
  c->q_lora_rank = k.Int("attention.q_lora_rank", {0, kRank.high}, 0);
  c->kv_lora_rank = k.Int("attention.kv_lora_rank", kRank);
  const bool newer = k.Has("attention.key_length_mla");
  const char* key_length = newer ? "attention.key_length_mla" : "attention.key_length";
  const char* value_length = newer ? "attention.value_length_mla" : "attention.value_length";
  c->qk_rope_head_dim = k.Int("rope.dimension_count", kHeadDim);
  const std::int64_t rope = c->qk_rope_head_dim;
  c->qk_nope_head_dim = k.Int(key_length, {rope + 1, rope + kHeadDim.high}) - rope;
  c->v_head_dim = k.Int(value_length, kHeadDim);
}

void ReadMha(const Keys& k, Config* c) {
  c->num_key_value_heads = k.Int("attention.head_count_kv", kHeads, c->num_attention_heads);
  const std::int64_t share = c->hidden_size / c->num_attention_heads;
  const std::int64_t rope = k.Int("rope.dimension_count", kHeadDim, std::max(share, kHeadDim.low));
  for (const char* key : {"attention.key_length", "attention.value_length"}) {
    if (k.Int(key, kHeadDim, rope) == rope) continue;
    Throw<CheckpointError>("{}: expected {} as rope.dimension_count says, found {}", k.Where(key),
                           rope, k.Int(key, kHeadDim));
  }
  c->qk_rope_head_dim = rope;
  c->v_head_dim = rope;
}

// mscale is not in these files: it is what cancels the factor on cos and sin, as in every published
// model. Without a multiplier there is no temperature either.
RopeScaling ReadYarn(const Keys& k) {
  RopeScaling yarn;
  yarn.factor = k.Real("rope.scaling.factor", kFactor);
  yarn.beta_fast = k.Real("rope.scaling.yarn_beta_fast", kBeta, yarn.beta_fast);
  yarn.beta_slow = k.Real("rope.scaling.yarn_beta_slow", kBeta, yarn.beta_slow);
  const RealRange range{kMscale.low, kMscale.high / kLogMultipliers};
  yarn.mscale_all_dim = k.Real("rope.scaling.yarn_log_multiplier", range, 0.0) * kLogMultipliers;
  yarn.mscale = yarn.mscale_all_dim;
  yarn.original_max_position_embeddings = k.Int("rope.scaling.original_context_length", kPositions);
  return yarn;
}

void ReadRope(const Keys& k, Config* c) {
  c->rope_theta = k.Real("rope.freq_base", kTheta, c->rope_theta);
  const bool stretched = k.Real("rope.scaling.factor", {0, kFactor.high}, 1.0) != 1;
  const std::string_view type = k.String("rope.scaling.type", stretched ? "linear" : "none");
  if (type == "none" || (type == "linear" && !stretched)) return;
  if (type != "yarn" || c->attention == AttentionKind::kMha) {
    Throw<CheckpointError>("{}: {} is not supported (supported: none, and yarn with MLA)",
                           k.Where("rope.scaling.type"), QuotedToken(type));
  }
  c->rope_scaling = ReadYarn(k);
}

// Files from before the key are of models with softmax, but for some of models with a correction
// bias, which only goes with sigmoid.
bool HasSigmoid(const Gguf& gguf, const Keys& k) {
  constexpr std::string_view kKey = "expert_gating_func";
  if (k.Has(kKey) && k.Int(kKey, {0, UINT32_MAX}) != 0) {
    const std::int64_t function = k.Int(kKey, {0, UINT32_MAX});
    if (function == kSoftmax || function == kSigmoid) return function == kSigmoid;
    Throw<CheckpointError>("{}: {} is not supported (supported: {} softmax, {} sigmoid)",
                           k.Where(kKey), function, kSoftmax, kSigmoid);
  }
  return std::ranges::any_of(gguf.tensors(), [](const GgufTensor& tensor) {
    return tensor.name.ends_with(".exp_probs_b.bias");
  });
}

// Published models that choose groups of experts first, by what tells them from all others.
struct GroupRow {
  bool sigmoid;
  std::int64_t experts;
  std::int64_t n_group;
  std::int64_t topk_group;
};
constexpr std::array<GroupRow, 2> kGrouped{{{true, 256, 8, 4},     // V3, R1
                                            {false, 160, 8, 3}}};  // V2, V2.5, Coder-V2

// Without the keys a file is older than they are, and the model's own rule holds all the same.
void ReadGroups(const Keys& k, bool sigmoid, Config* c) {
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  for (const GroupRow& row : kGrouped) {
    const bool same = row.sigmoid == sigmoid && row.experts == c->n_routed_experts;
    if (!same || k.Has("expert_group_count")) continue;
    n_group = row.n_group;
    topk_group = row.topk_group;
  }
  // 0 is how some files say that there are no groups.
  c->n_group = std::max(k.Int("expert_group_count", {0, kGroups.high}, n_group), kGroups.low);
  c->topk_group =
      std::max(k.Int("expert_group_used_count", {0, kGroups.high}, topk_group), kGroups.low);
}

void ReadMoe(const Gguf& gguf, const Keys& k, Config* c) {
  c->n_routed_experts = k.Int("expert_count", kExperts, 0);
  if (c->n_routed_experts == 0) return;
  c->n_shared_experts = k.Int("expert_shared_count", kSharedExperts, 0);
  c->num_experts_per_tok = k.Int("expert_used_count", {1, kExperts.high});
  c->moe_intermediate_size = k.Int("expert_feed_forward_length", kWidth);
  c->first_k_dense_replace = k.Int("leading_dense_block_count", {0, kLayers.high}, 0);
  c->routed_scaling_factor = k.Real("expert_weights_scale", {0, kRoutedScaling.high}, 1.0);
  if (c->routed_scaling_factor == 0) c->routed_scaling_factor = 1;  // how some files say "none"
  if (c->family == Family::kDeepSeekMoe) return;
  const bool sigmoid = HasSigmoid(gguf, k);
  c->norm_topk_prob = k.Bool("expert_weights_norm", false);
  ReadGroups(k, sigmoid, c);
  if (!sigmoid) {
    c->topk_method = c->n_group > 1 ? "group_limited_greedy" : "greedy";
    return;
  }
  c->family = Family::kDeepSeekV3;
  c->model_type = "deepseek_v3";
  c->scoring_func = "sigmoid";
  c->topk_method = "noaux_tc";
}

void ReadTokenIds(const GgufMetadata& metadata, Config* c) {
  constexpr std::string_view kBos = "tokenizer.ggml.bos_token_id";
  if (metadata.Has(kBos)) {
    c->bos_token_id = static_cast<std::int32_t>(metadata.Int(kBos, kTokenId));
  }
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (!metadata.Has(key)) continue;
    const auto id = static_cast<std::int32_t>(metadata.Int(key, kTokenId));
    if (std::ranges::find(c->eos_token_ids, id) == c->eos_token_ids.end()) {
      c->eos_token_ids.push_back(id);
    }
  }
}

std::string_view Architecture(const GgufMetadata& metadata) {
  const std::string_view name = metadata.String("general.architecture");
  if (name == kMoeArchitecture || name == kMlaArchitecture) return name;
  Throw<CheckpointError>("{}: {} is not supported (supported: {}, {})",
                         metadata.Where("general.architecture"), QuotedToken(name),
                         kMoeArchitecture, kMlaArchitecture);
}

}  // namespace

Config ReadGgufConfig(const Gguf& gguf) {
  const GgufMetadata& metadata = gguf.metadata();
  const std::string_view architecture = Architecture(metadata);
  const bool mla = architecture == kMlaArchitecture;
  const Keys keys(metadata, architecture);
  Config config;
  config.model_type = mla ? "deepseek_v2" : "deepseek";
  config.family = mla ? Family::kDeepSeekV2 : Family::kDeepSeekMoe;
  config.attention = mla ? AttentionKind::kMla : AttentionKind::kMha;
  ReadSizes(gguf, keys, &config);
  mla ? ReadMla(keys, &config) : ReadMha(keys, &config);
  ReadRope(keys, &config);
  ReadMoe(gguf, keys, &config);
  ReadTokenIds(metadata, &config);
  CheckConfig(config, metadata.file());
  return config;
}

}  // namespace tandem
