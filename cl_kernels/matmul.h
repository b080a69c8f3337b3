#pragma once

#include <cstdint>

#include "cl_kernels/programs.h"

namespace tandem::cl {

// How few_rows.cl and matmul.cl are launched: the same for linear and the two halves of the
// experts.

// A tile of matmul.cl.
inline constexpr std::int64_t kTileRows = 64;
inline constexpr std::int64_t kTileColumns = 128;
inline constexpr std::int64_t kTileGroup = 256;

// Rows of x that a kernel of few_rows.cl takes at once for T of them: 1, 2, 4 or traits.max_rows.
std::int64_t RowsAtOnce(const DeviceTraits& traits, std::int64_t T);

// Work-groups along the weight rows, and teams that share a row.
struct FewRowsLaunch {
  std::int64_t groups = 1;
  std::int64_t ksplit = 1;
};

// For N outputs, each the sum of `wrows` weight rows of K weights (2 for SwiGLU), against `rows` of
// x (RowsAtOnce), `batch` times side by side.
FewRowsLaunch ChooseFewRows(const Programs& programs, DType type, std::int64_t rows, std::int64_t N,
                            std::int64_t K, std::int64_t wrows, std::int64_t batch);

// Whether one_row.cl takes a row of K values, of a matrix that lies at `offset`.
bool TakesOneRow(Programs& programs, DType type, std::int64_t K, std::uint64_t offset);
// For so many sets of weight rows, wide_rows each, of K weights: launches of one_row.cl.
FewRowsLaunch ChooseOneRow(const Programs& programs, DType type, std::int64_t sets, std::int64_t K);

// Whether one_row_mma.cl takes the same, and its work-groups for `rows` weight rows.
bool TakesOneRowMma(Programs& programs, DType type, std::int64_t K, std::uint64_t offset);
std::int64_t OneRowMmaGroups(const Programs& programs, std::int64_t rows);
// Parts of K columns that its work-groups share out (one_row_parts.cl) for `rows` outputs; 1: each
// goes through all columns.
std::int64_t OneRowMmaParts(const Programs& programs, DType type, std::int64_t rows,
                            std::int64_t K);
// Work-items of its work-groups: one fills a compute unit.
inline constexpr std::int64_t kOneRowMmaItems = 512;
// Columns of x that it holds in local memory at a time.
inline constexpr std::int64_t kOneRowMmaSpan = 7168;
// The same for one_row_tile.cl, which takes codes of eight bits and up to kOneRowTileSpan columns
// in linear products, in as many work-groups as `of_unit` on each compute unit.
inline constexpr std::int64_t kOneRowTileRows = 16;
inline constexpr std::int64_t kOneRowTileSpan = 2048;
bool TakesOneRowTile(const Programs& programs, DType type, std::int64_t rows, std::int64_t of_unit);
// Whether it has the format at all.
bool HasOneRowMma(DType type);

}  // namespace tandem::cl
