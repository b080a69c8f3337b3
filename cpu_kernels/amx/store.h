#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/amx/tiles.h"
#include "cpu_kernels/linear.h"

// Included by the files of this folder only; in an unnamed namespace, so that no symbol leaves an
// object file.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kTileFloats = kTileBytes / 4;

// Sums as [32 rows of w][tile of x][16 rows of w], a tile each, of rows [n0, ...) of w.
struct SumTiles {
  float* first;
  std::int64_t n0, tiles;

  TANDEM_INLINE float* At(std::int64_t n, std::int64_t tile) const {
    const std::int64_t panel = (n - n0) / kTileRows;
    return first + (panel / 2 * tiles * 2 + tile * 2 + panel % 2) * kTileFloats;
  }
};

TANDEM_INLINE void StoreRow(const LinearArgs& a, float* y, std::int64_t count, __m512 sums) {
  const auto in = static_cast<__mmask16>((1U << count) - 1);
  if (a.accumulate) sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(in, y));
  _mm512_mask_storeu_ps(y, in, sums);
}

// y of rows [t0, t0 + split.T) and [sums.n0, n1).
TANDEM_INLINE void StoreSums(const LinearArgs& a, std::int64_t t0, const TileSplit& split,
                             const SumTiles& sums, std::int64_t n1) {
  for (std::int64_t tile = 0; tile < split.count; ++tile) {
    for (std::int64_t r = split.Repeated(tile); r < split.height; ++r) {
      const std::int64_t t = t0 + split.First(tile) + r;
      float* y = a.y + (a.y_rows != nullptr ? a.y_rows[t] : t) * a.y_stride;
      for (std::int64_t n = sums.n0; n < n1; n += kTileRows) {
        StoreRow(a, y + n, Min(n1 - n, kTileRows),
                 _mm512_load_ps(sums.At(n, tile) + r * kTileRows));
      }
    }
  }
}

TANDEM_INLINE std::int64_t RowOfX(const LinearArgs& a, std::int64_t t) {
  return a.x_rows != nullptr ? a.x_rows[t] : t;
}

}  // namespace
}  // namespace tandem::cpu
