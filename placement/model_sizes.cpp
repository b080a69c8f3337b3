#include "placement/model_sizes.h"

#include <algorithm>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::uint64_t kHostAlign = 64;     // a cache line
constexpr std::uint64_t kDeviceAlign = 256;  // cl_kernels/args.h, Weight

constexpr std::uint64_t RoundUp(std::uint64_t bytes, std::uint64_t align) {
  return (bytes + align - 1) / align * align;
}

// Rows are shared out over the nodes, and each node's piece is rounded up by itself.
std::uint64_t OnHost(std::uint64_t bytes, int nodes) {
  return RoundUp(bytes, kHostAlign) + static_cast<std::uint64_t>(nodes - 1) * kHostAlign;
}

Unit& UnitOf(const TensorInfo& tensor, ModelUnits& units) {
  if (tensor.role == Role::kEmbedding) return units.embedding;
  if (tensor.role == Role::kHead) return units.head;
  TANDEM_CHECK(tensor.layer >= 0 && static_cast<std::size_t>(tensor.layer) < units.layers.size());
  LayerUnits& layer = units.layers[static_cast<std::size_t>(tensor.layer)];
  // Both norms act on the residual, which lives where attention does.
  if (tensor.part == Part::kPostNorm) return layer.attention;
  switch (tensor.role) {
    case Role::kDense:
      return layer.dense;
    case Role::kRouter:
      return layer.router;
    case Role::kShared:
      return layer.shared;
    case Role::kRouted:
      TANDEM_CHECK(tensor.expert >= 0 &&
                   static_cast<std::size_t>(tensor.expert) < layer.experts.size());
      return layer.experts[static_cast<std::size_t>(tensor.expert)];
    default:
      return layer.attention;
  }
}

}  // namespace

void Unit::Add(const TensorInfo& tensor, int nodes) {
  ++tensors;
  const auto elements = static_cast<std::uint64_t>(tensor.elements());
  if (tensor.shape.size() < 2) {
    const std::uint64_t bytes = elements * sizeof(float);
    host_bytes += RoundUp(bytes, kHostAlign);  // not shared out
    device_bytes += RoundUp(bytes, kDeviceAlign);
    vector_bytes += RoundUp(bytes, kHostAlign);
    return;
  }
  const std::uint64_t data = elements * BytesOf(tensor.dtype);
  const std::uint64_t scale =
      tensor.has_scale
          ? static_cast<std::uint64_t>(tensor.scale_rows() * tensor.scale_cols()) * sizeof(float)
          : 0;
  host_bytes += OnHost(data, nodes) + (scale > 0 ? OnHost(scale, nodes) : 0);
  const std::uint64_t on_device = RoundUp(data, kDeviceAlign) + RoundUp(scale, kDeviceAlign);
  device_bytes += on_device;
  if (on_device <= matrix_bytes) return;
  matrix_bytes = on_device;
  largest = &tensor;
}

ModelUnits MeasureModel(const Config& config, const TensorList& tensors, int nodes) {
  ModelUnits units;
  units.layers.resize(static_cast<std::size_t>(config.num_hidden_layers));
  for (std::size_t i = 0; i < units.layers.size(); ++i) {
    if (!config.IsMoeLayer(static_cast<std::int64_t>(i))) continue;
    units.layers[i].experts.resize(static_cast<std::size_t>(config.n_routed_experts));
  }
  for (const TensorInfo& tensor : tensors.all()) {
    if (tensor.role != Role::kMtp) UnitOf(tensor, units).Add(tensor, nodes);
  }
  const TensorInfo* embedding = tensors.Find(Role::kEmbedding, Part::kEmbed);
  if (embedding && !tensors.Find(Role::kHead, Part::kLmHead)) {
    const std::uint64_t host_bytes = units.head.host_bytes;
    units.head.Add(*embedding, nodes);
    units.head.host_bytes = host_bytes;
  }
  return units;
}

std::int64_t KvBlockCount(std::int64_t context, std::int64_t max_sequences) {
  return (context + kKvBlockTokens - 1) / kKvBlockTokens + max_sequences;
}

std::uint64_t KvLayerBytes(const Config& config, std::int64_t blocks, DType type) {
  return static_cast<std::uint64_t>(blocks * kKvBlockTokens * config.kv_width()) * BytesOf(type);
}

// Per row, with D hidden, H heads, E experts, K chosen, F expert width, R kv_lora_rank, V
// vocabulary:
//   residual, its norm, the sums of attention and MLP on both sides, one to spare      8 D
//   queries (low-rank, full, absorbed) and attention output (latent, per head)         see below
//   gate and up of the dense or shared MLP, and their product                          3 I
//   router logits, ids, weights                                                        E + 2 K
//   gate, up, product and output of every chosen expert                                K (3 F + D)
//   logits                                                                             V
std::vector<ScratchBuffer> ScratchBuffers(const Config& c, std::int64_t max_rows, Place::Kind kind,
                                          int workers) {
  const std::int64_t heads = c.num_attention_heads;
  const bool mla = c.attention == AttentionKind::kMla;
  const std::int64_t latent = mla ? c.kv_lora_rank + c.qk_rope_head_dim : 0;
  const std::int64_t mlp =
      std::max(c.intermediate_size, c.n_shared_experts * c.moe_intermediate_size);
  // f32, and a bf16 copy on the host, where fast kernels read one.
  const std::uint64_t value_bytes = kind == Place::Kind::kHost ? 6 : 4;
  const auto bytes = [&](std::int64_t values_per_row) {
    return static_cast<std::uint64_t>(max_rows * values_per_row) * value_bytes;
  };
  return {
      {"hidden states", bytes(8 * c.hidden_size)},
      {"queries", bytes(c.q_lora_rank + heads * (c.qk_head_dim() + latent) + latent)},
      {"attention output", bytes(heads * (latent + c.v_head_dim) + c.kv_width())},
      {"MLP", bytes(3 * mlp)},
      {"router", bytes(c.n_routed_experts + 2 * c.num_experts_per_tok)},
      {"gate and up of chosen experts", bytes(c.num_experts_per_tok * 3 * c.moe_intermediate_size)},
      {"output of chosen experts", bytes(c.num_experts_per_tok * c.hidden_size)},
      {"logits", static_cast<std::uint64_t>(max_rows * c.vocab_size) * sizeof(float)},
      // Block tables, positions, hand-over buffers of a few values a row, and rounding.
      {"tables", std::uint64_t{4} << 20},
      {"workers", static_cast<std::uint64_t>(workers) << 20},  // attention scores, widened rows
  };
}

std::uint64_t ScratchBytes(const Config& config, std::int64_t max_rows, Place::Kind kind,
                           int workers) {
  std::uint64_t sum = 0;
  for (const ScratchBuffer& buffer : ScratchBuffers(config, max_rows, kind, workers)) {
    sum += buffer.bytes;
  }
  return sum;
}

}  // namespace tandem
