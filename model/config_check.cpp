#include "model/config_check.h"

#include "memory/error.h"

namespace tandem {
namespace {

void CheckHeads(const Config& c, const std::string& file) {
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    Throw<CheckpointError>(
        "{}: num_attention_heads: expected a multiple of num_key_value_heads ({}), found {}", file,
        c.num_key_value_heads, c.num_attention_heads);
  }
  if (c.qk_rope_head_dim % 2 != 0) {
    Throw<CheckpointError>("{}: {}: expected an even number (RoPE turns pairs), found {}", file,
                           c.attention == AttentionKind::kMla ? "qk_rope_head_dim" : "head_dim",
                           c.qk_rope_head_dim);
  }
}

void CheckGroups(const Config& c, const std::string& file) {
  if (c.n_routed_experts % c.n_group != 0) {
    Throw<CheckpointError>("{}: n_group: expected a divisor of n_routed_experts ({}), found {}",
                           file, c.n_routed_experts, c.n_group);
  }
  if (c.topk_group > c.n_group) {
    Throw<CheckpointError>("{}: topk_group: expected at most n_group ({}), found {}", file,
                           c.n_group, c.topk_group);
  }
  // Groups are scored by their two largest values.
  if (c.topk_method == "noaux_tc" && c.n_group > 1 && c.n_routed_experts / c.n_group < 2) {
    Throw<CheckpointError>("{}: n_group: expected at least 2 experts in a group, found {} in {}",
                           file, c.n_routed_experts, c.n_group);
  }
}

void CheckTopK(const Config& c, const std::string& file) {
  const bool grouped = c.topk_method != "greedy";
  const std::int64_t choice =
      grouped ? c.n_routed_experts / c.n_group * c.topk_group : c.n_routed_experts;
  if (c.num_experts_per_tok > choice) {
    Throw<CheckpointError>(
        "{}: num_experts_per_tok: expected at most the {} experts to choose from, found {}", file,
        choice, c.num_experts_per_tok);
  }
}

void CheckTokens(const Config& c, const std::string& file) {
  const auto check = [&](const char* field, std::int32_t id) {
    if (id >= 0 && id < c.vocab_size) return;
    Throw<CheckpointError>("{}: {}: expected an id below vocab_size ({}), found {}", file, field,
                           c.vocab_size, id);
  };
  if (c.bos_token_id) check("bos_token_id", *c.bos_token_id);
  for (const std::int32_t id : c.eos_token_ids) check("eos_token_id", id);
}

}  // namespace

void CheckConfig(const Config& config, const std::string& file) {
  CheckHeads(config, file);
  if (config.n_routed_experts > 0) {
    CheckGroups(config, file);
    CheckTopK(config, file);
  }
  CheckTokens(config, file);
}

}  // namespace tandem
