#include "tests/support/gguf_model.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "memory/error.h"
#include "model/quantize.h"

namespace tandem::test {
namespace {

using Values = std::vector<float>;

template <class T>
std::vector<T> ReadAs(const Model& model, const TensorInfo& t, Piece piece) {
  std::vector<T> values((piece == Piece::kData ? t.data : t.scale).bytes / sizeof(T));
  model.source->Read(t, piece, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

Values Floats(const Model& model, const TensorInfo& t) {
  if (t.dtype == DType::kF32) return ReadAs<float>(model, t, Piece::kData);
  Values values;
  if (t.dtype == DType::kBF16) {
    for (const auto bits : ReadAs<std::uint16_t>(model, t, Piece::kData)) {
      values.push_back(Bf16ToF32(bits));
    }
    return values;
  }
  TANDEM_CHECK(t.dtype == DType::kF8E4M3);
  const auto scales = ReadAs<float>(model, t, Piece::kScale);
  for (const auto code : ReadAs<std::uint8_t>(model, t, Piece::kData)) {
    const auto i = static_cast<std::int64_t>(values.size());
    const std::int64_t block = i / t.cols() / kFp8Block * t.scale_cols() + i % t.cols() / kFp8Block;
    values.push_back(E4M3ToF32(code) * scales[static_cast<std::size_t>(block)]);
  }
  return values;
}

// Numbers of tensor types, written down here once more.
std::uint32_t TypeNumber(DType type) {
  switch (type) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ8_0:
      return 8;
    case DType::kQ4_K:
      return 12;
    default:
      TANDEM_CHECK(type == DType::kBF16);
      return 30;
  }
}

std::string Encoded(const Values& values, DType type, std::int64_t cols) {
  const auto n = static_cast<std::int64_t>(values.size());
  std::string bytes(DataBytes(type, n), '\0');
  if (IsBlockFormat(type)) {
    QuantizeRows(type, values.data(), n / cols, cols, nullptr,
                 reinterpret_cast<std::byte*>(bytes.data()));
    return bytes;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half = type == DType::kF16 ? F32ToF16(values[i]) : F32ToBf16(values[i]);
    if (type == DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    } else {
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
  }
  return bytes;
}

class Converter {
 public:
  Converter(const Model& model, const GgufModelOptions& options)
      : model_(model), c_(model.config), options_(options) {}

  GgufBuilder Convert() {
    mla_ = c_.attention == AttentionKind::kMla;
    prefix_ = mla_ ? "deepseek2." : "deepseek.";
    AddKeys();
    Whole(Role::kEmbedding, Part::kEmbed, -1, "token_embd.weight");
    for (int layer = 0; layer < c_.num_hidden_layers; ++layer) AddLayer(layer);
    Whole(Role::kHead, Part::kFinalNorm, -1, "output_norm.weight");
    Whole(Role::kHead, Part::kLmHead, -1, "output.weight");
    return std::move(gguf_);
  }

 private:
  void U32(const char* key, std::int64_t value) {
    gguf_.U32(prefix_ + key, static_cast<std::uint32_t>(value));
  }
  void F32(const char* key, double value) { gguf_.F32(prefix_ + key, static_cast<float>(value)); }

  void AddKeys() {
    gguf_.String("general.architecture", mla_ ? "deepseek2" : "deepseek");
    gguf_.String("general.name", "A test model");
    U32("block_count", c_.num_hidden_layers);
    U32("context_length", c_.max_position_embeddings);
    U32("embedding_length", c_.hidden_size);
    U32("feed_forward_length", c_.intermediate_size);
    U32("attention.head_count", c_.num_attention_heads);
    F32("attention.layer_norm_rms_epsilon", c_.rms_norm_eps);
    U32("vocab_size", c_.vocab_size);
    U32("rope.dimension_count", c_.qk_rope_head_dim);
    F32("rope.freq_base", c_.rope_theta);
    mla_ ? AddMlaKeys() : U32("attention.head_count_kv", c_.num_key_value_heads);
    AddMoeKeys();
    if (c_.bos_token_id) gguf_.U32("tokenizer.ggml.bos_token_id", *c_.bos_token_id);
    if (!c_.eos_token_ids.empty()) gguf_.U32("tokenizer.ggml.eos_token_id", c_.eos_token_ids[0]);
  }

  void AddMlaKeys() {
    const bool joint = options_.joint_kv_b;
    if (c_.q_lora_rank > 0) U32("attention.q_lora_rank", c_.q_lora_rank);
    U32("attention.kv_lora_rank", c_.kv_lora_rank);
    U32("attention.head_count_kv", joint ? c_.num_attention_heads : 1);
    U32("attention.key_length", joint ? c_.qk_head_dim() : c_.kv_lora_rank + c_.qk_rope_head_dim);
    U32("attention.value_length", joint ? c_.v_head_dim : c_.kv_lora_rank);
    if (!joint) U32("attention.key_length_mla", c_.qk_head_dim());
    if (!joint) U32("attention.value_length_mla", c_.v_head_dim);
    if (!c_.rope_scaling) return;
    gguf_.String(prefix_ + "rope.scaling.type", "yarn");
    F32("rope.scaling.factor", c_.rope_scaling->factor);
    U32("rope.scaling.original_context_length", c_.rope_scaling->original_max_position_embeddings);
    F32("rope.scaling.yarn_log_multiplier", 0.1 * c_.rope_scaling->mscale_all_dim);
  }

  void AddMoeKeys() {
    U32("leading_dense_block_count", c_.first_k_dense_replace);
    U32("expert_count", c_.n_routed_experts);
    U32("expert_used_count", c_.num_experts_per_tok);
    U32("expert_shared_count", c_.n_shared_experts);
    U32("expert_feed_forward_length", c_.moe_intermediate_size);
    F32("expert_weights_scale", c_.routed_scaling_factor);
    if (!mla_) return;
    gguf_.Bool(prefix_ + "expert_weights_norm", c_.norm_topk_prob);
    U32("expert_gating_func", c_.scoring_func == "sigmoid" ? 2 : 1);
    U32("expert_group_count", c_.n_group);
    U32("expert_group_used_count", c_.topk_group);
  }

  void Put(const std::string& name, std::vector<std::int64_t> ne, const Values& values,
           bool matrix) {
    const bool fits = matrix && ne[0] % BlockElements(options_.format) == 0;
    const DType type = fits ? options_.format : DType::kF32;
    const std::int64_t cols = ne[0];
    gguf_.Add({name, std::move(ne), TypeNumber(type), Encoded(values, type, cols), {}, {}});
  }

  const TensorInfo* Find(Role role, Part part, int layer, int expert = -1) const {
    return model_.tensors.Find(role, part, layer, expert);
  }

  void Whole(Role role, Part part, int layer, const std::string& name) {
    const TensorInfo* t = Find(role, part, layer);
    if (t == nullptr) return;
    Values values = Floats(model_, *t);
    if (!mla_ && (part == Part::kQ || part == Part::kK)) values = Interleaved(*t, values);
    const bool matrix = t->shape.size() == 2 && part != Part::kRouterWeight;
    Put(name, {t->shape.rbegin(), t->shape.rend()}, values, matrix);
  }

  // Per head [2, d/2, cols] to [d/2, 2, cols].
  Values Interleaved(const TensorInfo& t, const Values& values) const {
    const std::int64_t d = c_.qk_rope_head_dim;
    Values out;
    for (std::int64_t head = 0; head < t.rows() / d; ++head) {
      for (std::int64_t i = 0; i < d / 2; ++i) {
        for (std::int64_t j = 0; j < 2; ++j) {
          const auto row = values.begin() + (head * d + j * (d / 2) + i) * t.cols();
          out.insert(out.end(), row, row + t.cols());
        }
      }
    }
    return out;
  }

  void AddLayer(int layer) {
    const std::string blk = "blk." + std::to_string(layer) + ".";
    const auto attention = [&](Part part, const char* name) {
      Whole(Role::kAttention, part, layer, blk + name + ".weight");
    };
    attention(Part::kInputNorm, "attn_norm");
    attention(Part::kQ, "attn_q");
    attention(Part::kQA, "attn_q_a");
    attention(Part::kQANorm, "attn_q_a_norm");
    attention(Part::kQB, "attn_q_b");
    attention(Part::kKvA, "attn_kv_a_mqa");
    attention(Part::kKvANorm, "attn_kv_a_norm");
    attention(Part::kK, "attn_k");
    attention(Part::kV, "attn_v");
    attention(Part::kO, "attn_output");
    if (mla_) options_.joint_kv_b ? attention(Part::kKvB, "attn_kv_b") : SplitKvB(layer, blk);
    Whole(Role::kDense, Part::kPostNorm, layer, blk + "ffn_norm.weight");
    Whole(Role::kRouter, Part::kRouterWeight, layer, blk + "ffn_gate_inp.weight");
    Whole(Role::kRouter, Part::kRouterBias, layer, blk + "exp_probs_b.bias");
    for (const auto& [part, name] :
         {std::pair(Part::kGate, "ffn_gate"), std::pair(Part::kUp, "ffn_up"),
          std::pair(Part::kDown, "ffn_down")}) {
      Whole(Role::kDense, part, layer, blk + name + ".weight");
      Whole(Role::kShared, part, layer, blk + name + "_shexp.weight");
      Experts(part, layer, blk + name + "_exps.weight");
    }
  }

  // Rows of a head: nope of keys, then v of values.
  void SplitKvB(int layer, const std::string& blk) {
    const TensorInfo* t = Find(Role::kAttention, Part::kKvB, layer);
    const Values kv_b = Floats(model_, *t);
    const std::int64_t H = c_.num_attention_heads;
    const std::int64_t R = c_.kv_lora_rank;
    const std::int64_t nope = c_.qk_nope_head_dim;
    const std::int64_t v = c_.v_head_dim;
    Values k_b;
    Values v_b;
    for (std::int64_t h = 0; h < H; ++h) {
      const auto head = kv_b.begin() + h * (nope + v) * R;
      for (std::int64_t r = 0; r < R; ++r) {
        for (std::int64_t i = 0; i < nope; ++i) k_b.push_back(head[i * R + r]);
      }
      v_b.insert(v_b.end(), head + nope * R, head + (nope + v) * R);
    }
    Put(blk + "attn_k_b.weight", {nope, R, H}, k_b, true);
    Put(blk + "attn_v_b.weight", {R, v, H}, v_b, true);
  }

  void Experts(Part part, int layer, const std::string& name) {
    const TensorInfo* first = Find(Role::kRouted, part, layer, 0);
    if (first == nullptr) return;
    Values all;
    for (int e = 0; e < c_.n_routed_experts; ++e) {
      const Values one = Floats(model_, *Find(Role::kRouted, part, layer, e));
      all.insert(all.end(), one.begin(), one.end());
    }
    Put(name, {first->cols(), first->rows(), c_.n_routed_experts}, all, true);
  }

  const Model& model_;
  const Config& c_;
  GgufModelOptions options_;
  GgufBuilder gguf_;
  std::string prefix_;
  bool mla_ = true;
};

}  // namespace

GgufBuilder GgufOf(const Model& model, const GgufModelOptions& options) {
  return Converter(model, options).Convert();
}

void AddGgufTokenizer(GgufBuilder& gguf, const std::string& tokenizer_json,
                      const std::string& pre) {
  constexpr std::int32_t kNormal = 1;
  constexpr std::int32_t kControl = 3;
  constexpr std::int32_t kUserDefined = 4;
  const auto json = nlohmann::json::parse(tokenizer_json);
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  const auto put = [&](std::size_t id, const std::string& content, std::int32_t type) {
    if (id >= tokens.size()) tokens.resize(id + 1);
    types.resize(tokens.size(), kNormal);
    tokens[id] = content;
    types[id] = type;
  };
  for (const auto& [content, id] : json["model"]["vocab"].items()) put(id, content, kNormal);
  for (const auto& added : json["added_tokens"]) {
    put(added["id"], added["content"], added["special"] ? kControl : kUserDefined);
  }
  std::vector<std::string> merges;
  for (const auto& merge : json["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  gguf.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", pre);
  gguf.Strings("tokenizer.ggml.tokens", tokens).I32s("tokenizer.ggml.token_type", types);
  gguf.Strings("tokenizer.ggml.merges", merges);
}

}  // namespace tandem::test
