#include "runtime/measure_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

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

MeasuredWeights::MeasuredWeights(const std::vector<PlanNode>& nodes, std::size_t bytes)
    : bytes_(bytes) {
  WorkerPool pool(nodes, /*spin_us=*/0);
  const double workers = pool.size();
  double begin = 0;
  for (const PlanNode& node : nodes) {
    const double end = begin + static_cast<double>(node.cores.size()) / workers;
    const auto part = static_cast<std::size_t>((end - begin) * static_cast<double>(bytes));
    arenas_.push_back({HostBuffer(part / kAlign * kAlign, node.os_index), 0, begin, end});
    begin = end;
  }
  const std::vector<std::byte> pattern = WeightBytes((std::size_t{1} << 20) - kAlign);
  pool.Run([&](const Worker& w) {
    const HostBuffer& memory = arenas_[w.node].memory;
    const std::size_t first = memory.bytes() * w.index_in_node / w.count_in_node;
    const std::size_t last = memory.bytes() * (w.index_in_node + 1) / w.count_in_node;
    for (std::size_t at = first; at < last; at += pattern.size()) {
      std::memcpy(memory.data() + at, pattern.data(), std::min(pattern.size(), last - at));
    }
  });
}

const TensorInfo* MeasuredWeights::Info(DType type, std::int64_t rows, std::int64_t cols) {
  TensorInfo& info = infos_[{type, rows, cols}];
  if (info.shape.empty()) {
    info.shape = {rows, cols};
    info.dtype = type;
    info.data.bytes = static_cast<std::uint64_t>(rows * cols) * BytesOf(type);
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
  for (std::size_t i = 0; i < arenas_.size(); ++i) {
    HostShard shard;
    shard.node = static_cast<int>(i);
    shard.row0 = RowAt(arenas_[i].begin, rows, unit);
    shard.row1 = RowAt(arenas_[i].end, rows, unit);
    if (shard.row0 == shard.row1) continue;
    const std::int64_t shard_rows = shard.row1 - shard.row0;
    shard.data = Take(arenas_[i], static_cast<std::size_t>(shard_rows * cols) * BytesOf(type));
    if (m.info->has_scale) {
      const std::int64_t scale_rows = (shard_rows + kFp8Block - 1) / kFp8Block;
      const auto floats = static_cast<std::size_t>(scale_rows * m.info->scale_cols());
      shard.scale = reinterpret_cast<float*>(Take(arenas_[i], floats * sizeof(float)));
    }
    m.shards.push_back(std::move(shard));
  }
  return m;
}

}  // namespace tandem
