#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu_kernels/body.h"

// The tile registers of AMX. Included by the files of this folder only; in an unnamed namespace, so
// that no symbol leaves an object file.
//
// 0 ... 3 hold sums, 4 and 5 rows of x (A), 6 and 7 weights (B). Everywhere a tile lies in memory
// as 16 rows of 64 bytes one after another, 1 KiB.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kTileRowBytes = 64;
constexpr std::int64_t kTileBytes = kTileRows * kTileRowBytes;

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// GCC's intrinsics do not say which memory they read: whatever was stored for them must be there.
TANDEM_INLINE void FinishStores(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// Tiles belong to the thread and cost its context switches 8 KiB: they are configured for one call
// and released after it. x has `x_rows` rows of `x_bytes`, and a tile of weights x_bytes / 4 rows.
class Tiles {
 public:
  TANDEM_INLINE Tiles(std::int64_t x_rows, std::int64_t x_bytes) {
    TileConfig config;
    for (int i = 0; i < 8; ++i) {
      const bool is_x = i == 4 || i == 5;
      config.row_bytes[i] = static_cast<std::uint16_t>(is_x ? x_bytes : kTileRowBytes);
      config.rows[i] = static_cast<std::uint8_t>(i < 6 ? x_rows : x_bytes / 4);
    }
    FinishStores(&config);
    _tile_loadconfig(&config);
  }
  TANDEM_INLINE ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// How T rows are cut into tiles of at most 16: all of one height, so that one configuration serves
// them. The last tile may begin inside the one before it, and its first rows are then computed
// twice and used once.
struct TileSplit {
  std::int64_t T, count, height;

  TANDEM_INLINE explicit TileSplit(std::int64_t rows)
      : T(rows), count((rows + kTileRows - 1) / kTileRows), height((rows + count - 1) / count) {}
  TANDEM_INLINE std::int64_t First(std::int64_t tile) const {
    return Min(tile * height, T - height);
  }
  // Rows of the tile that the one before it has already.
  TANDEM_INLINE std::int64_t Repeated(std::int64_t tile) const {
    return tile * height - First(tile);
  }
};

}  // namespace
}  // namespace tandem::cpu
