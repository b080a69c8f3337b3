#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "memory/dtype.h"

// How a matrix in a block format lies in an OpenCL device's memory: codes apart from scales, both
// row-major, so that 16 bytes of codes can be loaded at once and neighbours read neighbours. `data`
// holds the codes, [rows][code bytes of a row]; `side` up to three arrays one after another, each
// [rows][its bytes of a row] and each beginning at a multiple of 16 bytes. Codes and scales keep
// the bits that they have in a file (memory/blocks.h):
//
//   format   codes of a block                side arrays, per block
//   Q8_0     q[32]                           d (2)
//   Q4_0     q[16], as in the file           d (2)
//   Q5_0     q[16], as in the file           d (2) | qh (4)
//   MXFP4    q[16], as in the file           e (1)
//   Q4_K     q[128]                          d, dmin, scales[12] (16)
//   Q5_K     q[128], then qh[32]             d, dmin, scales[12] (16)
//   Q6_K     ql[128], then qh[64]            scales[16] (16) | d (2)

namespace tandem {

// The formats that devices take: the scalar ones and those above.
bool IsDeviceFormat(DType type);

// Bytes of a row of codes, and of a row of each side array (0: none).
struct SplitRow {
  std::uint64_t data = 0;
  std::array<std::uint64_t, 3> side = {};
};
// `type` is a block format of the table; cols are whole blocks.
SplitRow SplitRowOf(DType type, std::int64_t cols);

// Of a whole matrix. Scalar formats: DataBytes, and no side.
std::uint64_t SplitDataBytes(DType type, std::int64_t rows, std::int64_t cols);
std::uint64_t SplitSideBytes(DType type, std::int64_t rows, std::int64_t cols);
// Where side array i begins in the side of a matrix of `rows` rows.
std::uint64_t SplitSideOffset(DType type, std::int64_t rows, std::int64_t cols, int i);

// Splits `rows` rows of blocks as a file has them (at any alignment): codes to data, and row r of
// side array i to side[i] + r * SplitRowOf(...).side[i].
void SplitBlocks(DType type, const std::byte* blocks, std::int64_t rows, std::int64_t cols,
                 std::byte* data, const std::array<std::byte*, 3>& side);

}  // namespace tandem
