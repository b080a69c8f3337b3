#include "runtime/measure_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "memory/blocks.h"
#include "memory/error.h"
#include "runtime/measure_meter.h"
#include "runtime/worker_pool.h"

namespace tandem {
namespace {

constexpr std::size_t kAlign = 64;

std::int64_t RowAt(double part, std::int64_t rows, std::int64_t unit) {
  const std::int64_t units = (rows + unit - 1) / unit;
  return std::min<std::int64_t>(rows, std::llround(part * static_cast<double>(units)) * unit);
}

}  // namespace

MeasuredWeights::MeasuredWeights(const Machine& machine, std::size_t bytes) {
  std::vector<PlanNode> nodes;
  std::size_t cores = 0;
  for (const Node& node : machine.nodes) {
    if (!node.cores.empty()) nodes.push_back({node.os_index, node.cores, 0});
    cores += node.cores.size();
  }
  for (const PlanNode& node : nodes) {
    const std::size_t part = bytes / cores * node.cores.size() / kAlign * kAlign;
    arenas_.push_back({node.os_index, HostBuffer(part, node.os_index), 0});
  }
  const std::vector<std::byte> pattern = WeightBytes((std::size_t{1} << 20) - kAlign);
  WorkerPool pool(nodes, /*spin_us=*/0);
  const WorkerPool::CallerPin pin(pool);
  pool.Run([&](const Worker& w) {
    const HostBuffer& memory = arenas_[w.node].memory;
    const std::size_t first = memory.bytes() * w.index_in_node / w.count_in_node;
    const std::size_t last = memory.bytes() * (w.index_in_node + 1) / w.count_in_node;
    for (std::size_t at = first; at < last; at += pattern.size()) {
      std::memcpy(memory.data() + at, pattern.data(), std::min(pattern.size(), last - at));
    }
  });
  ShareOut(nodes);
}

void MeasuredWeights::ShareOut(const std::vector<PlanNode>& nodes) {
  double workers = 0;
  for (const PlanNode& node : nodes) workers += static_cast<double>(node.cores.size());
  shares_.clear();
  double begin = 0;
  double most = std::numeric_limits<double>::infinity();
  for (const PlanNode& node : nodes) {
    const auto arena = std::ranges::find(arenas_, node.os_index, &Arena::os_index);
    TANDEM_CHECK(arena != arenas_.end());
    const double part = static_cast<double>(node.cores.size()) / workers;
    shares_.push_back({&*arena, begin, begin + part});
    begin += part;
    most = std::min(most, static_cast<double>(arena->memory.bytes()) / part);
  }
  // Several matrices, so that a cache meets none of them twice, and what rounding adds to a part.
  most_bytes_ = static_cast<std::size_t>(most / 3);
}

const TensorInfo* MeasuredWeights::Info(DType type, std::int64_t rows, std::int64_t cols) {
  TensorInfo& info = infos_[{type, rows, cols}];
  if (info.shape.empty()) {
    info.shape = {rows, cols};
    info.dtype = type;
    info.data.bytes = DataBytes(type, rows * cols);
    info.has_scale = type == DType::kF8E4M3;
    if (info.has_scale) {
      info.scale.bytes =
          static_cast<std::uint64_t>(info.scale_rows() * info.scale_cols()) * sizeof(float);
    }
  }
  return &info;
}

std::byte* MeasuredWeights::Take(Arena& arena, std::size_t bytes) {
  const std::size_t aligned = (bytes + kAlign - 1) / kAlign * kAlign;
  TANDEM_CHECK(aligned <= arena.memory.bytes());
  if (arena.used + aligned > arena.memory.bytes()) arena.used = 0;
  return arena.memory.data() + std::exchange(arena.used, arena.used + aligned);
}

Matrix MeasuredWeights::Next(DType type, std::int64_t rows, std::int64_t cols,
                             std::int64_t row_unit) {
  Matrix m;
  m.info = Info(type, rows, cols);
  const std::int64_t unit = std::lcm(row_unit, std::int64_t{kFp8Block});
  for (std::size_t i = 0; i < shares_.size(); ++i) {
    HostShard shard;
    shard.node = static_cast<int>(i);
    shard.row0 = RowAt(shares_[i].begin, rows, unit);
    shard.row1 = RowAt(shares_[i].end, rows, unit);
    if (shard.row0 == shard.row1) continue;
    const std::int64_t shard_rows = shard.row1 - shard.row0;
    shard.data = Take(*shares_[i].arena, IsBlockFormat(type) ? PackedBytes(type, shard_rows, cols)
                                                             : DataBytes(type, shard_rows * cols));
    if (m.info->has_scale) {
      const std::int64_t scale_rows = (shard_rows + kFp8Block - 1) / kFp8Block;
      const auto floats = static_cast<std::size_t>(scale_rows * m.info->scale_cols());
      shard.scale = reinterpret_cast<float*>(Take(*shares_[i].arena, floats * sizeof(float)));
    }
    m.shards.push_back(std::move(shard));
  }
  return m;
}

}  // namespace tandem
