#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cl_kernels/args.h"
#include "memory/cl_device.h"
#include "memory/host_buffer.h"
#include "memory/place.h"
#include "model/tensor_list.h"
#include "model/tensor_source.h"
#include "placement/plan.h"
#include "runtime/progress.h"

namespace tandem {

// The rows of a host matrix that one NUMA node holds. A row lies whole on one node, so every output
// is summed in one place and results are the same for any number of nodes.
struct HostShard {
  int node = 0;  // position in Plan::nodes
  std::int64_t row0 = 0;
  std::int64_t row1 = 0;
  std::byte* data = nullptr;  // row `row0`; row-major [rows, cols]
  float* scale = nullptr;     // FP8: [ceil(rows / 128), ceil(cols / 128)] from row0 / 128 on
};

// A placed matrix: shards on the host, or a range of a device buffer. Non-owning.
struct Matrix {
  const TensorInfo* info = nullptr;  // null: this layer has no such matrix
  Place place;
  std::vector<HostShard> shards;  // one per node that holds rows
  cl::Weight device;

  explicit operator bool() const { return info != nullptr; }
  DType dtype() const { return info->dtype; }
  std::int64_t rows() const { return info->rows(); }
  std::int64_t cols() const { return info->cols(); }
};

// A norm's weight or a bias: f32, on whichever side needs it.
struct Vector {
  std::vector<float> host;  // always
  cl::Span device;          // where placed on a device
};

struct AttentionWeights {
  Vector input_norm, q_a_norm, kv_a_norm;
  Matrix q, q_a, q_b, kv_a, kv_b, k, v, o;
};

struct MlpWeights {
  Matrix gate, up, down;
};

struct LayerWeights {
  AttentionWeights attention;
  Vector post_norm;
  MlpWeights dense;
  Matrix router;
  Vector router_bias;  // empty host vector: none
  MlpWeights shared;
  std::vector<MlpWeights> experts;
};

// All weights of a model, where the plan puts them. Owns their memory.
class Weights {
 public:
  Weights() = default;  // of no model, to be filled by hand: measurements
  // Lays out and reads everything, with several threads, each byte straight to its final place.
  // `device` is devices[0] of the plan, or null. model and device outlive this.
  Weights(const Model& model, const Plan& plan, const ClDevice* device, ProgressSink* progress);

  Matrix embedding;
  Vector final_norm;
  Matrix lm_head;
  std::vector<LayerWeights> layers;

  std::uint64_t loaded_bytes() const { return loaded_bytes_; }
  double load_s() const { return load_s_; }

 private:
  friend class WeightLayout;
  std::vector<HostBuffer> host_;  // one arena per node
  std::vector<ClBuffer> device_;  // arenas of at most max_alloc_bytes
  ClBuffer device_vectors_;
  std::uint64_t loaded_bytes_ = 0;
  double load_s_ = 0;
};

}  // namespace tandem
