#include "placement/model_sizes.h"

#include <algorithm>

#include "memory/blocks.h"
#include "memory/error.h"
#include "placement/device_parts.h"

namespace tandem {
namespace {

constexpr std::uint64_t kHostAlign = 64;  // a cache line

constexpr std::uint64_t RoundUp(std::uint64_t bytes, std::uint64_t align) {
  return (bytes + align - 1) / align * align;
}

}  // namespace

Unit& UnitOf(const TensorInfo& tensor, ModelUnits& units) {
  if (tensor.role == Role::kEmbedding) return units.embedding;
  if (tensor.role == Role::kHead) return units.head;
  TANDEM_CHECK(tensor.layer >= 0 && static_cast<std::size_t>(tensor.layer) < units.layers.size());
  LayerUnits& layer = units.layers[static_cast<std::size_t>(tensor.layer)];
  // The norm before the MLP runs where that begins: in a MoE layer, at the router.
  if (tensor.part == Part::kPostNorm) return layer.experts.empty() ? layer.dense : layer.router;
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

void Unit::Add(const TensorInfo& tensor) {
  ++tensors;
  const auto elements = static_cast<std::uint64_t>(tensor.elements());
  if (tensor.shape.size() < 2) {
    const std::uint64_t bytes = elements * sizeof(float);
    one_node_bytes += RoundUp(bytes, kHostAlign);  // not shared out
    device_bytes += RoundUp(bytes, kDeviceAlign);
    vector_bytes += RoundUp(bytes, kHostAlign);
    return;
  }
  const std::uint64_t data = DataBytes(tensor.dtype, tensor.elements());
  // On the host the rows of block formats are filled up to whole panels.
  const std::uint64_t packed =
      IsPacked(tensor) ? PackedBytes(tensor.dtype, tensor.rows(), tensor.cols()) : data;
  const std::uint64_t scale =
      tensor.has_scale
          ? static_cast<std::uint64_t>(tensor.scale_rows() * tensor.scale_cols()) * sizeof(float)
          : 0;
  one_node_bytes += RoundUp(packed, kHostAlign) + RoundUp(scale, kHostAlign);
  split_bytes += (scale > 0 ? 2 : 1) * kHostAlign;  // each node's piece is rounded up by itself
  const std::uint64_t on_device = SizesOnDevice(tensor, tensor.rows()).bytes();
  device_bytes += on_device;
  matrix_bytes = std::max(matrix_bytes, on_device);
  if (MayBeSplit(tensor)) splittable.push_back(&tensor);
  if (LeastBuffer(tensor) <= least_buffer) return;
  least_buffer = LeastBuffer(tensor);
  least = &tensor;
}

std::uint64_t Unit::DeviceBytes(std::uint64_t max_alloc) const {
  std::uint64_t bytes = device_bytes;
  if (matrix_bytes <= max_alloc) return bytes;
  for (const TensorInfo* t : splittable) {
    bytes += BytesOnDevice(*t, max_alloc) - BytesOnDevice(*t, UINT64_MAX);
  }
  return bytes;
}

ModelUnits MeasureModel(const Config& config, const TensorList& tensors) {
  ModelUnits units;
  units.layers.resize(static_cast<std::size_t>(config.num_hidden_layers));
  for (std::size_t i = 0; i < units.layers.size(); ++i) {
    if (!config.IsMoeLayer(static_cast<std::int64_t>(i))) continue;
    units.layers[i].experts.resize(static_cast<std::size_t>(config.n_routed_experts));
  }
  for (const TensorInfo& tensor : tensors.all()) {
    if (tensor.role != Role::kMtp) UnitOf(tensor, units).Add(tensor);
  }
  return units;
}

std::int64_t KvBlockCount(std::int64_t context, std::int64_t max_sequences) {
  return (context + kKvBlockTokens - 1) / kKvBlockTokens + max_sequences;
}

std::uint64_t KvTokenBytes(const Config& c, DType type) {
  if (type != DType::kF8E4M3) return DataBytes(type, c.kv_width());
  const std::int64_t scales = c.kv_lora_rank / kFp8Block;
  return static_cast<std::uint64_t>(c.kv_lora_rank + 4 * scales + 2 * c.qk_rope_head_dim);
}

std::uint64_t KvLayerBytes(const Config& config, std::int64_t blocks, DType type) {
  return static_cast<std::uint64_t>(blocks * kKvBlockTokens) * KvTokenBytes(config, type);
}

KvBuffers KvBuffersOf(const Config& config, std::int64_t blocks, DType type,
                      std::uint64_t max_bytes) {
  const std::uint64_t one = KvLayerBytes(config, 1, type);
  const auto fit = std::max<std::int64_t>(1, static_cast<std::int64_t>(max_bytes / one));
  if (blocks <= fit) return {1, blocks};
  const std::int64_t count = std::min(kMostKvBuffers, (blocks + fit - 1) / fit);
  const std::int64_t each = (blocks + count - 1) / count;
  return {(blocks + each - 1) / each, each};
}

}  // namespace tandem
