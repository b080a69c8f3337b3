#pragma once

#include <cstdint>
#include <vector>

#include "memory/dtype.h"
#include "memory/place.h"
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
  std::uint64_t host_bytes = 0;
  std::uint64_t device_bytes = 0;
  std::uint64_t vector_bytes = 0;  // f32 vectors, of which the host keeps a copy in any case
  std::uint64_t matrix_bytes = 0;  // of the largest matrix with its scales, on the device
  const TensorInfo* largest = nullptr;

  // A matrix and its scales lie in one buffer, so this must not exceed max_alloc_bytes.
  void Add(const TensorInfo& tensor, int nodes);
};

struct LayerUnits {
  Unit attention;  // with both norms of the layer
  Unit dense;
  Unit router;
  Unit shared;
  std::vector<Unit> experts;  // a kernel takes an expert's three matrices from one buffer
};

// The model as the planner sees it.
struct ModelUnits {
  Unit embedding;
  Unit head;
  std::vector<LayerUnits> layers;
};

// Sorts the tensors into units, for host weights shared out over `nodes` nodes. MTP tensors are not
// loaded and not counted.
ModelUnits MeasureModel(const Config& config, const TensorList& tensors, int nodes);

// Blocks of the KV cache: `context` tokens, and a partial block for each sequence.
std::int64_t KvBlockCount(std::int64_t context, std::int64_t max_sequences);
// One layer's KV cache.
std::uint64_t KvLayerBytes(const Config& config, std::int64_t blocks, DType type);

// What the buffers of a step depend on, beside the model.
struct StepShape {
  std::int64_t max_rows = 0;
  std::int64_t kv_blocks = 0;
  std::int64_t max_sequences = 0;
  int workers = 0;  // of the CPU team
};

// A buffer for activations of one step.
struct ScratchBuffer {
  const char* what;
  std::uint64_t bytes;
};

// What a step may allocate on one side: an upper bound per purpose, from which the runtime takes
// what it needs. Values are f32; the host may keep a bf16 copy of the inputs of linear layers
// beside them.
std::vector<ScratchBuffer> ScratchBuffers(const Config& config, const StepShape& step,
                                          Place::Kind kind);
std::uint64_t ScratchBytes(const Config& config, const StepShape& step, Place::Kind kind);

}  // namespace tandem
