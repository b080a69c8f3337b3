#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/cl_device.h"
#include "model/tensor_source.h"
#include "runtime/weights.h"

namespace tandem {

// One piece of a tensor on its way to its final place: rows of a matrix, or their scales.
struct LoadTask {
  const TensorInfo* tensor = nullptr;
  Piece piece = Piece::kData;
  std::uint64_t offset = 0;  // in the tensor's data or scales
  std::uint64_t bytes = 0;
  std::byte* host = nullptr;   // destination on the host, or
  std::int64_t pack_rows = 0;  // > 0: so many rows, to be packed into panels at `host`
  cl_mem device = nullptr;     // destination on a device
  std::uint64_t device_offset = 0;
  std::int64_t split_rows = 0;  // > 0: so many rows, to be split (memory/split_layout.h), codes to
                                // device_offset, side arrays to side_offset
  std::array<std::uint64_t, 3> side_offset = {};
  int device_index = 0;  // Place::Device of `device`
};

// A matrix and the tensor that fills it.
struct WantedMatrix {
  Matrix* matrix = nullptr;
  const TensorInfo* tensor = nullptr;
  std::int64_t row_unit = 1;  // rows that must stay together
};

// Which rows of a matrix each node of a plan holds: its share of them, in whole units.
class RowCut {
 public:
  explicit RowCut(const Plan& plan);

  struct Rows {
    std::int64_t first = 0;
    std::int64_t last = 0;
  };
  // Shards start on the border of an FP8 scale block, in every format, so that matrices of equal
  // shape are cut alike; `row_unit` rows are not cut.
  Rows Of(std::size_t node, std::int64_t rows, std::int64_t row_unit) const;
  std::size_t nodes() const { return ends_.size(); }
  int os_index(std::size_t node) const { return os_index_[node]; }
  // Plans whose cuts are equal can share host weights.
  friend bool operator==(const RowCut&, const RowCut&) = default;

 private:
  std::vector<double> ends_;  // of each node, as a share of all rows
  std::vector<int> os_index_;
};

// Where the matrices of one unit lie in memory that starts at `bases` (per node): packed one after
// another on cache lines. Without bases it only counts. Gives the bytes used per node; `tasks`, if
// not null, gets what is to be read.
std::vector<std::uint64_t> PackOnHost(std::span<const WantedMatrix> wanted, const RowCut& cut,
                                      std::span<std::byte* const> bases,
                                      std::vector<LoadTask>* tasks);

// The same in device buffers of at most `max_bytes`, from `offset` of the first on. A matrix above
// that is cut as placement/device_parts.h says.
std::vector<std::uint64_t> PackOnDevice(std::span<const WantedMatrix> wanted, int device,
                                        std::uint64_t max_bytes, std::uint64_t offset,
                                        std::span<const cl_mem> buffers,
                                        std::vector<LoadTask>* tasks);

}  // namespace tandem
