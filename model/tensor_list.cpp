#include "model/tensor_list.h"

#include <algorithm>
#include <array>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::array<std::string_view, kNumRoles> kRoleNames{
    "embedding", "head", "attention", "dense", "router", "shared", "routed", "mtp"};

// Only the projections of a DeepSeek FP8 checkpoint are FP8.
bool IsProjection(const TensorInfo& tensor) {
  switch (tensor.part) {
    case Part::kQ:
    case Part::kQA:
    case Part::kQB:
    case Part::kKvA:
    case Part::kKvB:
    case Part::kK:
    case Part::kV:
    case Part::kO:
    case Part::kGate:
    case Part::kUp:
    case Part::kDown:
      return true;
    default:
      return false;
  }
}

DType DTypeFor(const TensorInfo& tensor, DType dtype) {
  if (tensor.part == Part::kRouterBias) return DType::kF32;
  if (dtype == DType::kF8E4M3 && !IsProjection(tensor)) return DType::kBF16;
  return dtype;
}

// Collects the tensors of a model, layer by layer.
class Builder {
 public:
  Builder(const Config& config, DType dtype) : c_(config), dtype_(dtype) {}

  std::vector<TensorInfo> Build() {
    Add("model.embed_tokens.weight", {c_.vocab_size, c_.hidden_size}, Role::kEmbedding,
        Part::kEmbed);
    for (layer_ = 0; layer_ < c_.num_hidden_layers; ++layer_) AddLayer();
    layer_ = -1;
    Add("model.norm.weight", {c_.hidden_size}, Role::kHead, Part::kFinalNorm);
    Add(c_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
        {c_.vocab_size, c_.hidden_size}, Role::kHead, Part::kLmHead);
    return std::move(tensors_);
  }

 private:
  using Shape = std::vector<std::int64_t>;

  void Add(std::string name, Shape shape, Role role, Part part, int expert = -1) {
    TensorInfo tensor;
    tensor.name = std::move(name);
    tensor.shape = std::move(shape);
    tensor.role = role;
    tensor.part = part;
    tensor.layer = static_cast<int>(layer_);
    tensor.expert = expert;
    tensor.dtype = DTypeFor(tensor, dtype_);
    tensor.data.bytes = DataBytes(tensor.dtype, tensor.elements());
    tensor.has_scale = tensor.dtype == DType::kF8E4M3;
    if (tensor.has_scale) {
      tensor.scale.bytes =
          static_cast<std::uint64_t>(tensor.scale_rows() * tensor.scale_cols()) * sizeof(float);
    }
    tensors_.push_back(std::move(tensor));
  }

  void AddInLayer(std::string_view name, Shape shape, Role role, Part part, int expert = -1) {
    Add(fmt::format("model.layers.{}.{}", layer_, name), std::move(shape), role, part, expert);
  }

  void AddLayer() {
    AddInLayer("input_layernorm.weight", {c_.hidden_size}, Role::kAttention, Part::kInputNorm);
    c_.attention == AttentionKind::kMla ? AddMla() : AddMha();
    AddInLayer("post_attention_layernorm.weight", {c_.hidden_size}, Role::kDense, Part::kPostNorm);
    c_.IsMoeLayer(layer_) ? AddMoe() : AddMlp("mlp", c_.intermediate_size, Role::kDense);
  }

  void AddAttention(std::string_view name, Shape shape, Part part) {
    AddInLayer(fmt::format("self_attn.{}.weight", name), std::move(shape), Role::kAttention, part);
  }

  void AddMla() {
    const std::int64_t heads = c_.num_attention_heads;
    if (c_.q_lora_rank > 0) {
      AddAttention("q_a_proj", {c_.q_lora_rank, c_.hidden_size}, Part::kQA);
      AddAttention("q_a_layernorm", {c_.q_lora_rank}, Part::kQANorm);
      AddAttention("q_b_proj", {heads * c_.qk_head_dim(), c_.q_lora_rank}, Part::kQB);
    } else {
      AddAttention("q_proj", {heads * c_.qk_head_dim(), c_.hidden_size}, Part::kQ);
    }
    AddAttention("kv_a_proj_with_mqa", {c_.kv_lora_rank + c_.qk_rope_head_dim, c_.hidden_size},
                 Part::kKvA);
    AddAttention("kv_a_layernorm", {c_.kv_lora_rank}, Part::kKvANorm);
    AddAttention("kv_b_proj", {heads * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank},
                 Part::kKvB);
    AddAttention("o_proj", {c_.hidden_size, heads * c_.v_head_dim}, Part::kO);
  }

  void AddMha() {
    const std::int64_t q_rows = c_.num_attention_heads * c_.qk_head_dim();
    const std::int64_t kv_rows = c_.num_key_value_heads * c_.v_head_dim;
    AddAttention("q_proj", {q_rows, c_.hidden_size}, Part::kQ);
    AddAttention("k_proj", {kv_rows, c_.hidden_size}, Part::kK);
    AddAttention("v_proj", {kv_rows, c_.hidden_size}, Part::kV);
    AddAttention("o_proj", {c_.hidden_size, q_rows}, Part::kO);
  }

  void AddMlp(std::string_view prefix, std::int64_t width, Role role, int expert = -1) {
    const auto name = [&](const char* part) { return fmt::format("{}.{}.weight", prefix, part); };
    AddInLayer(name("gate_proj"), {width, c_.hidden_size}, role, Part::kGate, expert);
    AddInLayer(name("up_proj"), {width, c_.hidden_size}, role, Part::kUp, expert);
    AddInLayer(name("down_proj"), {c_.hidden_size, width}, role, Part::kDown, expert);
  }

  void AddMoe() {
    const std::int64_t experts = c_.n_routed_experts;
    AddInLayer("mlp.gate.weight", {experts, c_.hidden_size}, Role::kRouter, Part::kRouterWeight);
    if (c_.topk_method == "noaux_tc") {
      AddInLayer("mlp.gate.e_score_correction_bias", {experts}, Role::kRouter, Part::kRouterBias);
    }
    if (c_.n_shared_experts > 0) {
      AddMlp("mlp.shared_experts", c_.n_shared_experts * c_.moe_intermediate_size, Role::kShared);
    }
    for (int e = 0; e < experts; ++e) {
      AddMlp(fmt::format("mlp.experts.{}", e), c_.moe_intermediate_size, Role::kRouted, e);
    }
  }

  const Config& c_;
  DType dtype_;
  std::int64_t layer_ = -1;
  std::vector<TensorInfo> tensors_;
};

}  // namespace

std::string_view Name(Role role) { return kRoleNames[static_cast<std::size_t>(role)]; }

std::int64_t TensorInfo::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t dim : shape) product *= dim;
  return product;
}

bool IsPacked(const TensorInfo& tensor) {
  return IsBlockFormat(tensor.dtype) && tensor.role != Role::kEmbedding;
}

TensorList::TensorList(std::vector<TensorInfo> tensors) : tensors_(std::move(tensors)) {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const TensorInfo& t = tensors_[i];
    if (t.part == Part::kOther) continue;  // MTP: many in one layer, never looked up
    index_.emplace_back(Key(t.role, t.part, t.layer, t.expert), static_cast<std::uint32_t>(i));
  }
  std::sort(index_.begin(), index_.end());
  for (std::size_t i = 1; i < index_.size(); ++i) {
    TANDEM_CHECK(index_[i].first != index_[i - 1].first);
  }
}

std::uint64_t TensorList::Key(Role role, Part part, int layer, int expert) {
  return static_cast<std::uint64_t>(role) << 56 | static_cast<std::uint64_t>(part) << 48 |
         static_cast<std::uint64_t>(layer + 1) << 24 | static_cast<std::uint64_t>(expert + 1);
}

const TensorInfo* TensorList::Find(Role role, Part part, int layer, int expert) const {
  const std::pair<std::uint64_t, std::uint32_t> wanted(Key(role, part, layer, expert), 0);
  const auto at = std::lower_bound(index_.begin(), index_.end(), wanted);
  return at == index_.end() || at->first != wanted.first ? nullptr : &tensors_[at->second];
}

const TensorInfo& TensorList::Get(Role role, Part part, int layer, int expert) const {
  const TensorInfo* tensor = Find(role, part, layer, expert);
  TANDEM_CHECK(tensor != nullptr);
  return *tensor;
}

std::uint64_t TensorList::Bytes(Role role) const {
  std::uint64_t sum = 0;
  for (const TensorInfo& tensor : tensors_) sum += tensor.role == role ? tensor.bytes() : 0;
  return sum;
}

std::int64_t TensorList::Elements(Role role) const {
  std::int64_t sum = 0;
  for (const TensorInfo& tensor : tensors_) sum += tensor.role == role ? tensor.elements() : 0;
  return sum;
}

TensorList ExpectedTensors(const Config& config, DType dtype) {
  TANDEM_CHECK(IsWeightFormat(dtype));
  return TensorList(Builder(config, dtype).Build());
}

std::int64_t ActiveParameters(const Config& config, const TensorList& tensors) {
  std::int64_t active = config.hidden_size;  // one row of the embedding
  for (const Role role :
       {Role::kHead, Role::kAttention, Role::kDense, Role::kRouter, Role::kShared}) {
    active += tensors.Elements(role);
  }
  if (config.n_routed_experts == 0) return active;
  return active +
         tensors.Elements(Role::kRouted) / config.n_routed_experts * config.num_experts_per_tok;
}

}  // namespace tandem
