#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "runtime/weights.h"

namespace tandem {

// One piece of a tensor on its way to its final place: rows of a matrix, or their scales.
struct LoadTask {
  const TensorInfo* tensor = nullptr;
  Piece piece = Piece::kData;
  std::uint64_t offset = 0;  // in the tensor's data or scales
  std::uint64_t bytes = 0;
  std::byte* host = nullptr;  // destination on the host, or
  cl_mem device = nullptr;    // destination on the device
  std::uint64_t device_offset = 0;
};

// Decides the address of every tensor: first a pass that counts, then allocation, then a pass that
// assigns and lists what is to be read. The rules of placement are the plan's; this only packs.
class WeightLayout {
 public:
  WeightLayout(const Model& model, const Plan& plan, const ClDevice* device, Weights& weights);
  // In the order of the tensors, cut into pieces of a few MiB.
  std::vector<LoadTask> tasks;

 private:
  struct Pass;
  void Walk(Pass& pass);
  void WalkLayer(Pass& pass, int layer);
  void WalkAttention(Pass& pass, int layer);
  void WalkMlp(Pass& pass, MlpWeights& mlp, Role role, int layer, int expert, Place place);
  void PlaceMatrix(Pass& pass, Matrix& m, Role role, Part part, int layer, int expert, Place place,
                   std::int64_t row_unit = 1);
  void PlaceOnHost(Pass& pass, Matrix& m, std::int64_t row_unit);
  void PlaceOnDevice(Pass& pass, Matrix& m);
  void AddTasks(const TensorInfo& t, Piece piece, std::uint64_t offset, std::uint64_t bytes,
                std::byte* host, cl_mem device, std::uint64_t device_offset);

  const Model& model_;
  const Plan& plan_;
  const ClDevice* device_;
  Weights& weights_;
};

}  // namespace tandem
