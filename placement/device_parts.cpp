#include "placement/device_parts.h"

#include <algorithm>

#include "memory/blocks.h"
#include "memory/split_layout.h"

namespace tandem {
namespace {

constexpr std::uint64_t AlignUp(std::uint64_t bytes) {
  return (bytes + kDeviceAlign - 1) / kDeviceAlign * kDeviceAlign;
}

constexpr std::int64_t CeilDiv(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::uint64_t DeviceSizes::bytes() const { return AlignUp(data) + AlignUp(side); }

DeviceSizes SizesOnDevice(const TensorInfo& t, std::int64_t rows) {
  if (IsBlockFormat(t.dtype) && IsDeviceFormat(t.dtype)) {
    return {SplitDataBytes(t.dtype, rows, t.cols()), SplitSideBytes(t.dtype, rows, t.cols())};
  }
  const std::int64_t scales = t.has_scale ? CeilDiv(rows, kFp8Block) * t.scale_cols() : 0;
  return {DataBytes(t.dtype, rows * t.cols()), static_cast<std::uint64_t>(scales) * sizeof(float)};
}

bool MayBeSplit(const TensorInfo& t) {
  const bool heads = t.part == Part::kKvB || t.part == Part::kKB || t.part == Part::kVB;
  return !heads && t.role != Role::kRouted && t.rows() > kPartRows;
}

std::int64_t RowsOfPart(const TensorInfo& t, std::uint64_t max_bytes) {
  if (!MayBeSplit(t) || SizesOnDevice(t, t.rows()).bytes() <= max_bytes) return t.rows();
  const auto tiles = static_cast<std::int64_t>(max_bytes / SizesOnDevice(t, kPartRows).bytes());
  const std::int64_t parts = CeilDiv(t.rows(), std::max<std::int64_t>(tiles, 1) * kPartRows);
  return CeilDiv(CeilDiv(t.rows(), parts), kPartRows) * kPartRows;
}

std::uint64_t BytesOnDevice(const TensorInfo& t, std::uint64_t max_bytes) {
  const std::int64_t rows = RowsOfPart(t, max_bytes);
  if (rows == 0) return 0;
  const std::int64_t rest = t.rows() % rows;
  return static_cast<std::uint64_t>(t.rows() / rows) * SizesOnDevice(t, rows).bytes() +
         SizesOnDevice(t, rest).bytes();
}

std::uint64_t LeastBuffer(const TensorInfo& t) {
  return SizesOnDevice(t, MayBeSplit(t) ? kPartRows : t.rows()).bytes();
}

}  // namespace tandem
