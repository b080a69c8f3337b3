#include "runtime/expert_copy.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "memory/blocks.h"
#include "memory/split_layout.h"

namespace tandem {
namespace {

constexpr std::uint64_t kAlign = 256;  // as in runtime/weight_layout.cpp
// As there for the host, so that an expert that lies in one piece travels in one piece.
constexpr std::uint64_t kHostAlign = 64;

std::uint64_t AlignUp(std::uint64_t n, std::uint64_t align) {
  return (n + align - 1) / align * align;
}

std::uint64_t HostBytes(const Matrix& m, std::int64_t rows) {
  return IsBlockFormat(m.dtype()) ? PackedBytes(m.dtype(), rows, m.cols())
                                  : DataBytes(m.dtype(), rows * m.cols());
}

std::uint64_t ScaleBytes(const Matrix& m, std::int64_t rows) {
  if (!m.info->has_scale) return 0;
  const std::int64_t scale_rows = (rows + kFp8Block - 1) / kFp8Block;
  return static_cast<std::uint64_t>(scale_rows * m.info->scale_cols()) * sizeof(float);
}

}  // namespace

MatrixRange::MatrixRange(std::uint64_t at, std::uint64_t data_bytes, std::uint64_t side_bytes,
                         std::uint64_t align)
    : data(at), side(at + AlignUp(data_bytes, align)), end(side + AlignUp(side_bytes, align)) {}

MatrixRange HostRange(const Matrix& m, std::uint64_t at) {
  return {at, HostBytes(m, m.rows()), ScaleBytes(m, m.rows()), kHostAlign};
}

MatrixRange DeviceRange(const Matrix& m, std::uint64_t at) {
  if (!IsBlockFormat(m.dtype())) return HostRange(m, at);
  return {at, SplitDataBytes(m.dtype(), m.rows(), m.cols()),
          SplitSideBytes(m.dtype(), m.rows(), m.cols()), kAlign};
}

std::vector<HostRun> HostRuns(const Matrix& m, std::uint64_t at) {
  MatrixRange next = HostRange(m, at);
  std::vector<HostRun> runs;
  for (const HostShard& shard : m.shards) {
    const std::int64_t rows = shard.row1 - shard.row0;
    runs.push_back({shard.data, HostBytes(m, rows), next.data});
    next.data += HostBytes(m, rows);
    if (!m.info->has_scale) continue;
    runs.push_back(
        {reinterpret_cast<const std::byte*>(shard.scale), ScaleBytes(m, rows), next.side});
    next.side += ScaleBytes(m, rows);
  }
  return runs;
}

std::vector<std::vector<HostRun>> InPieces(const std::vector<HostRun>& runs,
                                           std::uint64_t piece_bytes) {
  constexpr std::uint64_t kShortGap = 4096;
  std::vector<std::vector<HostRun>> pieces;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  for (const HostRun& run : runs) {
    for (std::uint64_t done = 0; done < run.bytes;) {
      const std::uint64_t at = run.at + done;
      if (pieces.empty() || at >= begin + piece_bytes || at > end + kShortGap) {
        pieces.emplace_back();
        begin = at;
      }
      end = std::min(run.at + run.bytes, begin + piece_bytes);
      pieces.back().push_back({run.from + done, end - at, at});
      done += end - at;
    }
  }
  return pieces;
}

std::vector<HostRun> Joined(const std::vector<HostRun>& runs, std::uint64_t most_bytes) {
  std::vector<HostRun> copies;
  for (const HostRun& run : runs) {
    for (std::uint64_t done = 0; done < run.bytes;) {
      const HostRun rest{run.from + done, run.bytes - done, run.at + done};
      HostRun* const last = copies.empty() ? nullptr : &copies.back();
      const std::uint64_t end = last == nullptr ? 0 : rest.at - last->at;  // with what lies between
      const bool follows = last != nullptr && rest.at >= last->at + last->bytes &&
                           end - last->bytes < kHostAlign && end < most_bytes &&
                           rest.from == last->from + end;
      const std::uint64_t taken = std::min(rest.bytes, follows ? most_bytes - end : most_bytes);
      if (follows) {
        last->bytes = end + taken;
      } else {
        copies.push_back({rest.from, taken, rest.at});
      }
      done += taken;
    }
  }
  return copies;
}

std::vector<std::span<const std::byte>> PageRanges(const std::vector<HostRun>& runs) {
  constexpr std::uintptr_t kPage = 4096;
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> ends;
  for (const HostRun& run : runs) {
    const auto from = reinterpret_cast<std::uintptr_t>(run.from);
    ends.emplace_back(from / kPage * kPage, (from + run.bytes + kPage - 1) / kPage * kPage);
  }
  std::ranges::sort(ends);
  std::vector<std::span<const std::byte>> ranges;
  for (std::size_t i = 0; i < ends.size();) {
    auto [begin, end] = ends[i];
    for (; i < ends.size() && ends[i].first <= end; ++i) end = std::max(end, ends[i].second);
    ranges.emplace_back(reinterpret_cast<const std::byte*>(begin), end - begin);
  }
  return ranges;
}

void CopyShare(std::byte* to, const std::byte* from, std::uint64_t bytes, const Worker& worker) {
  const auto border = [&](int i) {
    if (i == worker.count) return bytes;
    return bytes * static_cast<std::uint64_t>(i) / static_cast<std::uint64_t>(worker.count) / 64 *
           64;
  };
  const std::uint64_t first = border(worker.index);
  std::memcpy(to + first, from + first, border(worker.index + 1) - first);
}

bool IsComplete(const ClEventHandle& event, const ClDevice& device) {
  cl_int status = CL_QUEUED;
  ClCheck(clGetEventInfo(event.get(), CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(status), &status,
                         nullptr),
          "clGetEventInfo", device);
  if (status < 0) ClCheck(status, "a copy of an expert", device);
  return status == CL_COMPLETE;
}

}  // namespace tandem
