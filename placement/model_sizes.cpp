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
  return units;
}

std::int64_t KvBlockCount(std::int64_t context, std::int64_t max_sequences) {
  return (context + kKvBlockTokens - 1) / kKvBlockTokens + max_sequences;
}

std::uint64_t KvLayerBytes(const Config& config, std::int64_t blocks, DType type) {
  return static_cast<std::uint64_t>(blocks * kKvBlockTokens * config.kv_width()) * BytesOf(type);
}

// Values per row, with D hidden, H heads, E experts, K chosen, F expert width, R kv_lora_rank,
// V vocabulary, I width of the dense or shared MLP, W = R + rope or, for MHA, the cached width:
//   residual, its norms, the sums of attention and MLP on both sides      8 D
//   queries: low-rank, full, absorbed                                     q_lora + H (qk + W) + W
//   attention output: latent, per head                                    H (W + v) + W
//   gate and up of the dense or shared MLP, and their product             3 I
//   router logits, ids, weights, and pairs sorted by expert               E + 6 K
//   gate, up, product and output of every chosen expert                   K (3 F + D)
//   logits, positions and rotations                                       V + qk + 3
// Per worker of the CPU team: 16 heads of 16 rows in attention, 256 values a row in an MLP.
std::vector<ScratchBuffer> ScratchBuffers(const Config& c, const StepShape& step,
                                          Place::Kind kind) {
  const bool host = kind == Place::Kind::kHost;
  const std::int64_t heads = c.num_attention_heads;
  const std::int64_t latent =
      c.attention == AttentionKind::kMla ? c.kv_lora_rank + c.qk_rope_head_dim : 0;
  const std::int64_t mlp =
      std::max(c.intermediate_size, c.n_shared_experts * c.moe_intermediate_size);
  const std::int64_t chosen = c.num_experts_per_tok;
  const auto bytes = [&](std::int64_t values_per_row) {
    return static_cast<std::uint64_t>(step.max_rows * values_per_row * (host ? 6 : 4));
  };
  const auto plain = [](std::int64_t values) { return static_cast<std::uint64_t>(values) * 4; };
  std::vector<ScratchBuffer> buffers{
      {"hidden states", bytes(8 * c.hidden_size)},
      {"queries", bytes(c.q_lora_rank + heads * (c.qk_head_dim() + latent) + latent)},
      {"attention output", bytes(heads * (latent + c.v_head_dim) + c.kv_width())},
      {"MLP", bytes(3 * mlp)},
      {"router", bytes(c.n_routed_experts + 6 * chosen)},
      {"gate and up of chosen experts", bytes(chosen * 3 * c.moe_intermediate_size)},
      {"output of chosen experts", bytes(chosen * c.hidden_size)},
      {"logits", plain(step.max_rows * c.vocab_size)},
      {"block tables",
       plain(step.max_rows * (c.qk_head_dim() + 3) + step.kv_blocks * step.max_sequences)},
      {"rounding and small tables", host ? std::uint64_t{16} << 20 : std::uint64_t{4} << 20}};
  if (host) {
    const std::int64_t per_worker =
        256 * (c.kv_width() + c.kv_lora_rank + 2 * step.max_rows) + 16384;
    buffers.push_back({"workers", plain(step.workers * per_worker)});
  }
  return buffers;
}

std::uint64_t ScratchBytes(const Config& config, const StepShape& step, Place::Kind kind) {
  std::uint64_t sum = 0;
  for (const ScratchBuffer& buffer : ScratchBuffers(config, step, kind)) sum += buffer.bytes;
  return sum;
}

}  // namespace tandem
