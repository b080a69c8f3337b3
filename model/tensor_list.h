#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dtype.h"
#include "model/config.h"

namespace tandem {

// What a tensor serves for; the planner places by role.
enum class Role : std::uint8_t {
  kEmbedding,
  kHead,       // lm_head and the final norm
  kAttention,  // projections and norms of attention, and input_layernorm
  kDense,      // the MLP of a dense layer, and post_attention_layernorm of any layer
  kRouter,     // mlp.gate
  kShared,     // shared experts
  kRouted,     // routed experts
  kMtp,        // multi-token-prediction layers: reported, not loaded
};
inline constexpr int kNumRoles = 8;
std::string_view Name(Role role);  // "embedding", "head", "attention", ...

// Which matrix or vector of its layer a tensor is.
// clang-format off
enum class Part : std::uint8_t {
  kEmbed, kFinalNorm, kLmHead,
  kInputNorm, kPostNorm,
  kQ, kQA, kQANorm, kQB, kKvA, kKvANorm, kKvB, kK, kV, kO,
  kKB, kVB,                        // kv_b in two, as GGUF has it: [H R, nope] (transposed), [H v, R]
  kGate, kUp, kDown,               // of a dense, shared or routed MLP, by role
  kRouterWeight, kRouterBias,
  kOther,                          // parts of MTP layers
};
// clang-format on

// Bytes in a file. `file` indexes the files of a checkpoint or of a split GGUF; -1 where there is
// none (synthetic).
struct Extent {
  int file = -1;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

// One tensor of the model, with its FP8 scales where it has any.
struct TensorInfo {
  std::string name;
  std::vector<std::int64_t> shape;
  DType dtype = DType::kBF16;
  Role role = Role::kAttention;
  Part part = Part::kOther;
  int layer = -1;
  int expert = -1;
  Extent data;
  bool has_scale = false;  // f32 [ceil(rows/128), ceil(cols/128)], row-major
  Extent scale;

  std::int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  std::int64_t cols() const { return shape.size() < 2 ? 1 : shape[1]; }
  std::int64_t elements() const;
  std::int64_t scale_rows() const { return (rows() + kFp8Block - 1) / kFp8Block; }
  std::int64_t scale_cols() const { return (cols() + kFp8Block - 1) / kFp8Block; }
  std::uint64_t bytes() const { return data.bytes + scale.bytes; }
};

// Whether the host keeps a matrix in panels of 16 rows (memory/blocks.h): all in block formats but
// the embedding, of which single rows are wanted.
bool IsPacked(const TensorInfo& tensor);

// Every tensor of a model, in the order of execution (embedding, layers, head, MTP).
class TensorList {
 public:
  TensorList() = default;
  explicit TensorList(std::vector<TensorInfo> tensors);  // builds the index

  std::span<const TensorInfo> all() const& { return tensors_; }
  std::span<const TensorInfo> all() && = delete;  // would dangle in a range-for
  // The tensor of that role and part, or null. layer and expert are -1 where they do not apply.
  const TensorInfo* Find(Role role, Part part, int layer = -1, int expert = -1) const;
  // As Find, but absence is our own bug (the list was checked when it was made).
  const TensorInfo& Get(Role role, Part part, int layer = -1, int expert = -1) const;
  std::uint64_t Bytes(Role role) const;
  std::int64_t Elements(Role role) const;

 private:
  static std::uint64_t Key(Role role, Part part, int layer, int expert);
  std::vector<TensorInfo> tensors_;
  std::vector<std::pair<std::uint64_t, std::uint32_t>> index_;  // sorted by key
};

// The tensors that this config must have: names and shapes, dtype as `dtype` (FP8 with scales for
// the projections when dtype is kF8E4M3, bf16 for the rest; norms and embeddings are never FP8), no
// extents. MTP layers are not listed.
TensorList ExpectedTensors(const Config& config, DType dtype);

// Parameters read for one token: everything but the embedding's other rows and unchosen experts.
std::int64_t ActiveParameters(const Config& config, const TensorList& tensors);

}  // namespace tandem
