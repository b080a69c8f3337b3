#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "memory/host_buffer.h"
#include "runtime/weights.h"

namespace tandem {

// Weights of no model in main memory, laid out over a team's nodes as those of a model. Matrices
// follow each other through a buffer that no cache holds, so that every product reads DRAM.
class MeasuredWeights {
 public:
  MeasuredWeights(const std::vector<PlanNode>& nodes, std::size_t bytes);

  // The matrix behind the last one, or from the start again where the buffer ends. Rows of a
  // node come in multiples of row_unit. Its memory must fit the buffer.
  Matrix Next(DType type, std::int64_t rows, std::int64_t cols, std::int64_t row_unit = 1);
  std::size_t bytes() const { return bytes_; }

 private:
  struct Arena {
    HostBuffer memory;
    std::size_t used = 0;
    double begin = 0, end = 0;  // of the rows of every matrix, as parts of 1
  };
  const TensorInfo* Info(DType type, std::int64_t rows, std::int64_t cols);
  static std::byte* Take(Arena& arena, std::size_t bytes);

  std::size_t bytes_;
  std::vector<Arena> arenas_;  // per node
  std::map<std::tuple<DType, std::int64_t, std::int64_t>, TensorInfo> infos_;
};

}  // namespace tandem
