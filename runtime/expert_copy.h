#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/cl_device.h"
#include "runtime/weights.h"
#include "runtime/worker_pool.h"

namespace tandem {

// Matrices of the host on their way to a device, for what streams and what is cached.

// Where a matrix lies in memory from `at` on: data, then scales or side arrays.
struct MatrixRange {
  MatrixRange(std::uint64_t at, std::uint64_t data_bytes, std::uint64_t side_bytes,
              std::uint64_t align = 256);
  std::uint64_t data, side, end;
};
// As the host has it: block formats in panels, the others as in a file; on its cache lines.
MatrixRange HostRange(const Matrix& m, std::uint64_t at);
// As devices have it: the same where it is in no block format.
MatrixRange DeviceRange(const Matrix& m, std::uint64_t at);

// Memory of the host that goes to `at` of the destination.
struct HostRun {
  const std::byte* from = nullptr;
  std::uint64_t bytes = 0;
  std::uint64_t at = 0;
};
// A matrix from HostRange's `at` on: the shards of the nodes one behind the other, which are the
// whole, for they are cut at whole panels and whole rows of scales.
std::vector<HostRun> HostRuns(const Matrix& m, std::uint64_t at);

// Runs whose destinations rise, as copies of at most `piece_bytes` from the first destination to
// the last: a copy of some KiB of scales costs as much as one of a MiB. Runs are cut where a piece
// ends, and parted where more than some lines lie between them, as where an expert is not used.
std::vector<std::vector<HostRun>> InPieces(const std::vector<HostRun>& runs,
                                           std::uint64_t piece_bytes);

// Runs joined to copies of at most `most_bytes` straight from where they lie: what follows in the
// source as in the destination is one, together with the few bytes between.
std::vector<HostRun> Joined(const std::vector<HostRun>& runs, std::uint64_t most_bytes);

// The whole pages that the runs touch, those of neighbours in memory as one.
std::vector<std::span<const std::byte>> PageRanges(const std::vector<HostRun>& runs);

// This worker's share of a copy.
void CopyShare(std::byte* to, const std::byte* from, std::uint64_t bytes, const Worker& worker);

// Throws OpenClError for a command that failed.
bool IsComplete(const ClEventHandle& event, const ClDevice& device);

}  // namespace tandem
