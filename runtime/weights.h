#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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

// A placed matrix: shards on the host, or a range of a device buffer, or of several. Non-owning.
struct Matrix {
  const TensorInfo* info = nullptr;  // null: this layer has no such matrix
  Place place;
  std::vector<HostShard> shards;                   // one per node that holds rows
  cl::Weight device;                               // the first part of it, which lists the others
  std::shared_ptr<std::vector<cl::Weight>> parts;  // those; null: it lies in one buffer

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
  Matrix q, q_a, q_b, kv_a, k, v, o;
  Matrix kv_b;      // MLA: this one, or
  Matrix k_b, v_b;  // [H R, nope], the transpose of W_UK head by head, and [H v, R]
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

// Opened devices: Place::Device(i) of a plan is the i-th. Non-owning.
using ClDevices = std::vector<const ClDevice*>;

class WeightUnit;
class ExpertSlots;
class RowCut;
struct LoadTask;

// All weights of a model, where a plan puts them. Owns their memory, in pieces that can move on
// their own: a role of a layer, and every routed expert.
class Weights {
 public:
  Weights();  // of no model, to be filled by hand: measurements
  // Lays out and reads everything, with several threads, each byte straight to its final place.
  // model and devices outlive this.
  Weights(const Model& model, const Plan& plan, const ClDevices& devices, ProgressSink* progress);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  // Goes over to another plan for the same model: what stays is not touched, what leaves is freed
  // first, what comes is read again. Devices that both plans use keep their places in the list.
  // Throws what loading throws; then nothing here is usable.
  void Move(const Plan& next, const ClDevices& devices, ProgressSink* progress);
  // Frees what is on devices, as one is lost: the next Move reads it again.
  void ForgetDevices();

  Matrix embedding;
  Vector final_norm;
  Matrix lm_head;
  std::vector<LayerWeights> layers;

  // Of the constructor, or of the last Move.
  std::uint64_t loaded_bytes() const { return loaded_bytes_; }
  double load_s() const { return load_s_; }
  // Formats of the matrices on a device.
  std::vector<DType> DeviceFormats(Place device) const;
  // Memory that the weights take now; norms and biases are not counted on the host.
  std::uint64_t host_bytes() const;
  std::uint64_t device_bytes(int device) const;

 private:
  struct PlacedUnit;
  void BuildUnits();
  void Release(const Plan& next, const ClDevices& devices);
  void Fill(const Plan& next, const ClDevices& devices, std::vector<LoadTask>& tasks);
  void LoadVectors(const Plan& plan, const ClDevices& devices);

  const Model* model_ = nullptr;
  std::unique_ptr<RowCut> cut_;
  std::vector<PlacedUnit> units_;
  std::vector<ExpertSlots> experts_;      // per layer; without experts in dense ones
  std::vector<ClBuffer> device_vectors_;  // of each device
  std::uint64_t loaded_bytes_ = 0;
  double load_s_ = 0;
};

}  // namespace tandem
