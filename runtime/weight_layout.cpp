#include "runtime/weight_layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "memory/blocks.h"
#include "memory/error.h"
#include "memory/split_layout.h"
#include "placement/device_parts.h"

namespace tandem {
namespace {

constexpr std::uint64_t kHostAlign = 64;                       // a cache line, and a 512-bit vector
constexpr std::uint64_t kPieceBytes = std::uint64_t{4} << 20;  // fits L2 while it is checked

constexpr std::uint64_t AlignUp(std::uint64_t n, std::uint64_t a) { return (n + a - 1) / a * a; }

std::uint64_t Take(std::uint64_t& used, std::uint64_t bytes, std::uint64_t align) {
  return std::exchange(used, used + AlignUp(bytes, align));
}

constexpr std::uint64_t kPackBytes = std::uint64_t{1} << 20;  // read, then packed out of L2

// Whole panels in pieces that several threads share; `whole` has the destination of all of them.
void AddPackTasks(std::vector<LoadTask>& tasks, const LoadTask& whole, std::int64_t rows) {
  const std::int64_t cols = whole.tensor->cols();
  const DType type = whole.tensor->dtype;
  const std::uint64_t panel = PackedBytes(type, kPanelRows, cols);
  const auto step =
      static_cast<std::int64_t>(std::max<std::uint64_t>(1, kPackBytes / panel)) * kPanelRows;
  for (std::int64_t row = 0; row < rows; row += step) {
    LoadTask task = whole;
    task.pack_rows = std::min(step, rows - row);
    task.offset += DataBytes(type, row * cols);
    task.bytes = DataBytes(type, task.pack_rows * cols);
    task.host += DataBytes(type, row * cols);
    tasks.push_back(task);
  }
}

// Cut into pieces of a few MiB, so that several threads share a large matrix.
void AddTasks(std::vector<LoadTask>& tasks, const LoadTask& whole) {
  for (std::uint64_t done = 0; done < whole.bytes; done += kPieceBytes) {
    LoadTask task = whole;
    task.offset += done;
    task.bytes = std::min(kPieceBytes, whole.bytes - done);
    if (whole.host != nullptr) task.host += done;
    task.device_offset += done;
    tasks.push_back(task);
  }
}

// A part of a matrix on a device: so many rows, from row0 of the matrix on.
struct PartRows {
  std::int64_t row0 = 0;
  std::int64_t rows = 0;
};

// Rows of a block format in pieces, each with its places in the codes and in every side array.
void AddSplitTasks(std::vector<LoadTask>& tasks, const LoadTask& whole, std::uint64_t side_at,
                   PartRows part) {
  const TensorInfo& t = *whole.tensor;
  const SplitRow row = SplitRowOf(t.dtype, t.cols());
  const std::uint64_t file_row = DataBytes(t.dtype, t.cols());
  const auto step = static_cast<std::int64_t>(std::max<std::uint64_t>(1, kPackBytes / file_row));
  for (std::int64_t r = 0; r < part.rows; r += step) {
    LoadTask task = whole;
    task.split_rows = std::min(step, part.rows - r);
    task.offset = static_cast<std::uint64_t>(part.row0 + r) * file_row;
    task.bytes = static_cast<std::uint64_t>(task.split_rows) * file_row;
    task.device_offset += static_cast<std::uint64_t>(r) * row.data;
    for (int i = 0; i < 3; ++i) {
      task.side_offset[i] = side_at + SplitSideOffset(t.dtype, part.rows, t.cols(), i) +
                            static_cast<std::uint64_t>(r) * row.side[i];
    }
    tasks.push_back(task);
  }
}

// The same for a part of any format, which lies at `at`.
void AddDeviceTasks(std::vector<LoadTask>& tasks, const TensorInfo& t, int device,
                    const cl::Weight& at, PartRows part) {
  const DeviceSizes sizes = SizesOnDevice(t, part.rows);
  LoadTask data{&t, Piece::kData, 0, sizes.data, nullptr, 0, at.buffer, at.offset};
  data.device_index = device;
  if (IsBlockFormat(t.dtype)) return AddSplitTasks(tasks, data, at.scale_offset, part);
  data.offset = DataBytes(t.dtype, part.row0 * t.cols());
  AddTasks(tasks, data);
  if (!t.has_scale) return;
  LoadTask scale = data;
  scale.piece = Piece::kScale;
  scale.offset = static_cast<std::uint64_t>(part.row0 / kFp8Block * t.scale_cols()) * sizeof(float);
  scale.bytes = sizes.side;
  scale.device_offset = at.scale_offset;
  AddTasks(tasks, scale);
}

// A matrix whose parts lie there.
void SetOnDevice(const WantedMatrix& w, int device, std::vector<cl::Weight> parts) {
  Matrix& m = *w.matrix;
  m = {};
  m.info = w.tensor;
  m.place = Place::Device(device);
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) parts[i].next = &parts[i + 1];
  m.device = parts[0];
  if (parts.size() > 1) m.parts = std::make_shared<std::vector<cl::Weight>>(std::move(parts));
}

// One node's rows of one matrix: data, then scales.
void PackShard(const WantedMatrix& w, std::size_t node, RowCut::Rows rows, std::byte* base,
               std::uint64_t& used, std::vector<LoadTask>* tasks) {
  const TensorInfo& t = *w.tensor;
  const std::int64_t count = rows.last - rows.first;
  const std::uint64_t first_byte = DataBytes(t.dtype, rows.first * t.cols());
  const std::uint64_t bytes =
      IsPacked(t) ? PackedBytes(t.dtype, count, t.cols()) : DataBytes(t.dtype, count * t.cols());
  const std::uint64_t at = Take(used, bytes, kHostAlign);
  const std::int64_t scale0 = rows.first / kFp8Block;
  const std::int64_t scale1 = (rows.last + kFp8Block - 1) / kFp8Block;
  const std::uint64_t scale_row_bytes = t.scale_cols() * sizeof(float);
  const std::uint64_t scale_bytes = t.has_scale ? (scale1 - scale0) * scale_row_bytes : 0;
  const std::uint64_t scale_at = Take(used, scale_bytes, kHostAlign);
  if (base == nullptr) return;
  HostShard shard{static_cast<int>(node), rows.first, rows.last, base + at, nullptr};
  if (t.has_scale) shard.scale = reinterpret_cast<float*>(base + scale_at);
  w.matrix->shards.push_back(shard);
  if (tasks == nullptr) return;
  const LoadTask data{&t, Piece::kData, first_byte, bytes, shard.data};
  IsPacked(t) ? AddPackTasks(*tasks, data, count) : AddTasks(*tasks, data);
  AddTasks(*tasks, {&t, Piece::kScale, scale0 * scale_row_bytes, scale_bytes, base + scale_at});
}

}  // namespace

RowCut::RowCut(const Plan& plan) {
  double sum = 0;
  for (const PlanNode& node : plan.nodes) sum += node.share;
  double end = 0;
  for (std::size_t i = 0; i < plan.nodes.size(); ++i) {
    end = sum > 0 ? end + plan.nodes[i].share / sum
                  : static_cast<double>(i + 1) / static_cast<double>(plan.nodes.size());
    ends_.push_back(i + 1 < plan.nodes.size() ? end : 1.0);
    os_index_.push_back(plan.nodes[i].os_index);
  }
}

RowCut::Rows RowCut::Of(std::size_t node, std::int64_t rows, std::int64_t row_unit) const {
  const std::int64_t unit = std::lcm(row_unit, std::int64_t{kFp8Block});
  const auto units = static_cast<double>((rows + unit - 1) / unit);
  const auto border = [&](double share) {
    return std::min(rows, static_cast<std::int64_t>(std::llround(units * share)) * unit);
  };
  return {node == 0 ? 0 : border(ends_[node - 1]), border(ends_[node])};
}

std::vector<std::uint64_t> PackOnHost(std::span<const WantedMatrix> wanted, const RowCut& cut,
                                      std::span<std::byte* const> bases,
                                      std::vector<LoadTask>* tasks) {
  std::vector<std::uint64_t> used(cut.nodes(), 0);
  for (const WantedMatrix& w : wanted) {
    if (!bases.empty()) {
      *w.matrix = {};
      w.matrix->info = w.tensor;
    }
    for (std::size_t node = 0; node < cut.nodes(); ++node) {
      const RowCut::Rows rows = cut.Of(node, w.tensor->rows(), w.row_unit);
      if (rows.first == rows.last) continue;
      PackShard(w, node, rows, bases.empty() ? nullptr : bases[node], used[node], tasks);
    }
  }
  return used;
}

std::vector<std::uint64_t> PackOnDevice(std::span<const WantedMatrix> wanted, int device,
                                        std::uint64_t max_bytes, std::uint64_t offset,
                                        std::span<const cl_mem> buffers,
                                        std::vector<LoadTask>* tasks) {
  std::vector<std::uint64_t> used{offset};
  for (const WantedMatrix& w : wanted) {
    const TensorInfo& t = *w.tensor;
    const std::int64_t step = RowsOfPart(t, max_bytes);
    std::vector<cl::Weight> parts;
    for (std::int64_t row0 = 0; row0 < t.rows(); row0 += step) {
      const PartRows part{row0, std::min(step, t.rows() - row0)};
      const DeviceSizes sizes = SizesOnDevice(t, part.rows);
      if (used.back() > 0 && used.back() + sizes.bytes() > max_bytes) used.push_back(0);
      const std::uint64_t at = Take(used.back(), sizes.data, kDeviceAlign);
      const std::uint64_t scale_at = Take(used.back(), sizes.side, kDeviceAlign);
      if (buffers.empty()) continue;
      parts.push_back({buffers[used.size() - 1], at, scale_at, t.dtype, part.rows, t.cols()});
      if (tasks != nullptr) AddDeviceTasks(*tasks, t, device, parts.back(), part);
    }
    if (!buffers.empty()) SetOnDevice(w, device, std::move(parts));
  }
  return used;
}

}  // namespace tandem
