#include "memory/split_layout.h"

#include <cstring>
#include <span>

#include "memory/blocks.h"
#include "memory/error.h"

namespace tandem {
namespace {

constexpr int kData = -1;
constexpr std::uint64_t kSideAlign = 16;

// A run of bytes of a block: where it lies there, and where it goes to, from `at` on in the block's
// part of the codes or of a side array.
struct Piece {
  std::size_t from, bytes;
  int to;
  std::size_t at;
};

using Q5_0 = BlockQ5_0;
using Q5_K = BlockQ5_K;
using Q6_K = BlockQ6_K;
constexpr Piece kQ8_0[] = {{offsetof(BlockQ8_0, q), 32, kData, 0}, {0, 2, 0, 0}};
constexpr Piece kQ4_0[] = {{offsetof(BlockQ4_0, q), 16, kData, 0}, {0, 2, 0, 0}};
constexpr Piece kQ5_0[] = {
    {offsetof(Q5_0, q), 16, kData, 0}, {0, 2, 0, 0}, {offsetof(Q5_0, qh), 4, 1, 0}};
constexpr Piece kMXFP4[] = {{offsetof(BlockMXFP4, q), 16, kData, 0}, {0, 1, 0, 0}};
constexpr Piece kQ4_K[] = {{offsetof(BlockQ4_K, q), 128, kData, 0}, {0, 16, 0, 0}};
constexpr Piece kQ5_K[] = {
    {offsetof(Q5_K, q), 128, kData, 0}, {offsetof(Q5_K, qh), 32, kData, 128}, {0, 16, 0, 0}};
constexpr Piece kQ6_K[] = {{offsetof(Q6_K, ql), 128, kData, 0},
                           {offsetof(Q6_K, qh), 64, kData, 128},
                           {offsetof(Q6_K, scales), 16, 0, 0},
                           {offsetof(Q6_K, d), 2, 1, 0}};

// Empty for a format that devices do not take.
std::span<const Piece> PiecesOf(DType type) {
  switch (type) {
    case DType::kQ8_0:
      return kQ8_0;
    case DType::kQ4_0:
      return kQ4_0;
    case DType::kQ5_0:
      return kQ5_0;
    case DType::kMXFP4:
      return kMXFP4;
    case DType::kQ4_K:
      return kQ4_K;
    case DType::kQ5_K:
      return kQ5_K;
    case DType::kQ6_K:
      return kQ6_K;
    default:
      return {};
  }
}

// Bytes of one block in the codes and in each side array.
SplitRow BlockSplit(DType type) {
  SplitRow split;
  for (const Piece& piece : PiecesOf(type)) {
    (piece.to == kData ? split.data : split.side[piece.to]) += piece.bytes;
  }
  return split;
}

std::uint64_t AlignUp(std::uint64_t bytes) {
  return (bytes + kSideAlign - 1) / kSideAlign * kSideAlign;
}

}  // namespace

bool IsDeviceFormat(DType type) {
  return IsWeightFormat(type) && (!IsBlockFormat(type) || !PiecesOf(type).empty());
}

SplitRow SplitRowOf(DType type, std::int64_t cols) {
  TANDEM_CHECK(!PiecesOf(type).empty() && cols % BlockElements(type) == 0);
  const auto blocks = static_cast<std::uint64_t>(cols / BlockElements(type));
  SplitRow row = BlockSplit(type);
  row.data *= blocks;
  for (std::uint64_t& side : row.side) side *= blocks;
  return row;
}

std::uint64_t SplitDataBytes(DType type, std::int64_t rows, std::int64_t cols) {
  TANDEM_CHECK(IsDeviceFormat(type));
  if (!IsBlockFormat(type)) return DataBytes(type, rows * cols);
  return static_cast<std::uint64_t>(rows) * SplitRowOf(type, cols).data;
}

std::uint64_t SplitSideOffset(DType type, std::int64_t rows, std::int64_t cols, int i) {
  TANDEM_CHECK(i >= 0 && i < 3);
  const SplitRow row = SplitRowOf(type, cols);
  std::uint64_t offset = 0;
  for (int before = 0; before < i; ++before) {
    offset += AlignUp(static_cast<std::uint64_t>(rows) * row.side[before]);
  }
  return offset;
}

std::uint64_t SplitSideBytes(DType type, std::int64_t rows, std::int64_t cols) {
  TANDEM_CHECK(IsDeviceFormat(type));
  if (!IsBlockFormat(type)) return 0;
  const SplitRow row = SplitRowOf(type, cols);
  const int last = row.side[1] == 0 ? 0 : row.side[2] == 0 ? 1 : 2;
  return SplitSideOffset(type, rows, cols, last) +
         static_cast<std::uint64_t>(rows) * row.side[last];
}

void SplitBlocks(DType type, const std::byte* blocks, std::int64_t rows, std::int64_t cols,
                 std::byte* data, const std::array<std::byte*, 3>& side) {
  const std::span<const Piece> pieces = PiecesOf(type);
  const SplitRow block = BlockSplit(type);
  const std::size_t block_bytes = BlockBytes(type);
  TANDEM_CHECK(!pieces.empty() && cols % BlockElements(type) == 0);
  // Rows follow each other without a gap in every array, so blocks may be counted through.
  const std::int64_t count = rows * (cols / BlockElements(type));
  for (const Piece& piece : pieces) {
    const bool codes = piece.to == kData;
    const std::size_t stride = codes ? block.data : block.side[piece.to];
    std::byte* to = (codes ? data : side[piece.to]) + piece.at;
    const std::byte* from = blocks + piece.from;
    for (std::int64_t b = 0; b < count; ++b, to += stride, from += block_bytes) {
      std::memcpy(to, from, piece.bytes);
    }
  }
}

}  // namespace tandem
