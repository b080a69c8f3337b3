#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "memory/host_buffer.h"
#include "placement/plan.h"
#include "runtime/worker_pool.h"

namespace tandem {

// How fast this machine reads memory with the threads and cores of a plan: the bound of decode,
// measured beside it. Each thread reads its own part, which lies on its own node, or where the
// kernel allows it on `memory_node` (an OS index).
class ReadBandwidth {
 public:
  // Allocates and touches `bytes` in all.
  ReadBandwidth(const std::vector<PlanNode>& nodes, std::size_t bytes,
                int memory_node = HostBuffer::kAnyNode);

  // Reads everything once; bytes per second.
  double Measure();
  std::size_t bytes() const { return bytes_; }

 private:
  WorkerPool pool_;
  std::vector<HostBuffer> parts_;    // one per worker
  std::vector<std::uint64_t> sums_;  // so that the reads are not optimised away
  std::size_t bytes_ = 0;
};

}  // namespace tandem
