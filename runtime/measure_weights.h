#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "memory/host_buffer.h"
#include "placement/machine.h"
#include "placement/plan.h"
#include "runtime/weights.h"

namespace tandem {

// Weights of no model in main memory, laid out over a team's nodes as those of a model. Matrices
// follow each other through buffers that no cache holds, so that every product reads DRAM.
class MeasuredWeights {
 public:
  // `bytes` in all, over all nodes of the machine in proportion to their cores.
  MeasuredWeights(const Machine& machine, std::size_t bytes);

  // From now on rows are shared out over these nodes, in proportion to their cores.
  void ShareOut(const std::vector<PlanNode>& nodes);

  // The matrix behind the last one, or from the start again where the buffer ends. Rows of a
  // node come in multiples of row_unit. It must not be larger than most_bytes().
  Matrix Next(DType type, std::int64_t rows, std::int64_t cols, std::int64_t row_unit = 1);
  std::size_t most_bytes() const { return most_bytes_; }

 private:
  struct Arena {
    int os_index = 0;
    HostBuffer memory;
    std::size_t used = 0;
  };
  // A node of the team: which rows of every matrix it has, as parts of 1.
  struct Share {
    Arena* arena = nullptr;
    double begin = 0, end = 0;
  };
  const TensorInfo* Info(DType type, std::int64_t rows, std::int64_t cols);
  static std::byte* Take(Arena& arena, std::size_t bytes);

  std::vector<Arena> arenas_;  // per node of the machine; never resized
  std::vector<Share> shares_;  // per node of the team
  std::size_t most_bytes_ = 0;
  std::map<std::tuple<DType, std::int64_t, std::int64_t>, TensorInfo> infos_;
};

}  // namespace tandem
