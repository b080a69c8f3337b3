#pragma once

#include <cstdint>
#include <vector>

#include "memory/dtype.h"
#include "model/config.h"
#include "model/tensor_list.h"

namespace tandem {

inline constexpr std::int64_t kKvBlockTokens = 64;

// Tensors that are placed together, and what they take on either side. Matrices keep the type that
// they have in the file; vectors (norms, biases) become f32.
//   host   : data and scales each rounded up to 64 bytes, on every node that can hold a shard
//   device : data and scales each rounded up to 256 bytes
struct Unit {
  std::int64_t tensors = 0;
  std::uint64_t one_node_bytes = 0;
  std::uint64_t split_bytes = 0;  // what every further node rounds up
  std::uint64_t device_bytes = 0;
  std::uint64_t vector_bytes = 0;  // f32 vectors, of which the host keeps a copy in any case
  std::uint64_t matrix_bytes = 0;  // of the largest matrix with its scales, on the device
  // What must lie in one buffer at least, which must not exceed max_alloc_bytes, and of which
  // matrix.
  std::uint64_t least_buffer = 0;
  const TensorInfo* least = nullptr;
  std::vector<const TensorInfo*> splittable;  // the matrices that may lie in several buffers

  void Add(const TensorInfo& tensor);
  // device_bytes where no buffer is larger than max_alloc.
  std::uint64_t DeviceBytes(std::uint64_t max_alloc) const;
  // With the rows of matrices shared out over so many nodes.
  std::uint64_t HostBytes(int nodes) const {
    return one_node_bytes + static_cast<std::uint64_t>(nodes - 1) * split_bytes;
  }
};

struct LayerUnits {
  Unit attention;  // with its norm
  Unit dense;      // with the norm before it
  Unit router;     // with the norm before it
  Unit shared;
  std::vector<Unit> experts;  // a kernel takes an expert's three matrices from one buffer
};

// The model as the planner sees it.
struct ModelUnits {
  Unit embedding;
  Unit head;
  std::vector<LayerUnits> layers;
};

// The unit that a tensor belongs to. MTP tensors belong to none.
Unit& UnitOf(const TensorInfo& tensor, ModelUnits& units);

// Sorts the tensors, which outlive the result, into units. MTP tensors are not loaded and not
// counted.
ModelUnits MeasureModel(const Config& config, const TensorList& tensors);

// Blocks of the KV cache: `context` tokens, and a partial block for each sequence.
std::int64_t KvBlockCount(std::int64_t context, std::int64_t max_sequences);
// One token of one layer: the values, or for q8_0 blocks of 32 along the row, and for f8_e4m3 the
// latent in e4m3 with a scale for every 128 and the roped key in bf16 (DeepSeek-V3.2's 656 bytes).
std::uint64_t KvTokenBytes(const Config& config, DType type);
// One layer's KV cache.
std::uint64_t KvLayerBytes(const Config& config, std::int64_t blocks, DType type);

// How a layer's KV cache lies on a device whose largest buffer is `max_bytes`: so many blocks in
// each buffer but the last, in up to kMostKvBuffers; where those are too few, a buffer is larger
// than max_bytes.
inline constexpr std::int64_t kMostKvBuffers = 64;
struct KvBuffers {
  std::int64_t count = 1;
  std::int64_t blocks = 0;
};
KvBuffers KvBuffersOf(const Config& config, std::int64_t blocks, DType type,
                      std::uint64_t max_bytes);

}  // namespace tandem
