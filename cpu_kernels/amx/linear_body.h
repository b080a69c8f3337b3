#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/amx/decode.h"
#include "cpu_kernels/amx/store.h"
#include "cpu_kernels/amx/tiles.h"
#include "cpu_kernels/linear_rows.h"

// y (+)= x w^T by tdpbf16ps, bf16 rows of x times weights of any format rounded to bf16.
//
// For every 256 columns: up to 256 rows of w are decoded into tiles, 128 KiB in L2. Then 32 rows of
// x at a time are copied to L1 and multiplied by all of them, 32 rows of w at a time: 2 x 2 tiles
// of sums, so that four tiles loaded feed four products. The sums of up to 512 x 256 pairs of rows
// wait in L2 for the next columns. Decoding is paid once for 512 rows of x, the copy of x once for
// 256 rows of w: callers with many rows of x should ask for as many of w. Every (t, n) is summed in
// the order of its columns, so a result depends on neither the tiling nor its neighbours.
//
// Included by the files of this folder only; in an unnamed namespace, so that no symbol leaves an
// object file.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kChunkCols = 256;
constexpr std::int64_t kXTile = kTileRows * kChunkCols;  // values of a tile of x in a chunk
constexpr std::int64_t kPairValues = 2 * kXTile;         // and of two panels
constexpr std::int64_t kMostWeightRows = 256;
constexpr std::int64_t kMostRows = 512;

// 656 KiB on the stack of the calling worker: x of one step, weights as [32 rows][32
// columns][panel], sums. Rows of x are copied even where they could be read in place: their
// distance is often a multiple of 4 KiB, which leaves them one set of L1 (measured: a third more
// time at 256 rows).
struct alignas(64) LinearScratch {
  std::uint16_t x[2 * kXTile];
  std::uint16_t w[kMostWeightRows * kChunkCols];
  float sums[kMostRows * kMostWeightRows];
};

// One to two tiles of x times one to two panels of w over the columns of a chunk.
template <int kX, int kW>
TANDEM_INLINE void MultiplyTiles(const std::uint16_t* x, const std::uint16_t* w, std::int64_t steps,
                                 bool first, float* sums) {
  const std::uint16_t* x0 = x;
  const std::uint16_t* x1 = x + (kX - 1) * kXTile;
  if (first) {
    _tile_zero(0);
    if constexpr (kW == 2) _tile_zero(1);
    if constexpr (kX == 2) _tile_zero(2);
    if constexpr (kX == 2 && kW == 2) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kTileRowBytes);
    if constexpr (kW == 2) _tile_loadd(1, sums + kTileFloats, kTileRowBytes);
    if constexpr (kX == 2) _tile_loadd(2, sums + 2 * kTileFloats, kTileRowBytes);
    if constexpr (kX == 2 && kW == 2) _tile_loadd(3, sums + 3 * kTileFloats, kTileRowBytes);
  }
  for (std::int64_t i = 0; i < steps; ++i) {
    _tile_loadd(6, w + i * kTileBytes, kTileRowBytes);
    _tile_loadd(4, x0 + i * kTileBytes / 2, kTileRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kW == 2) {
      _tile_loadd(7, w + i * kTileBytes + kTileBytes / 2, kTileRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kX == 2) {
      _tile_loadd(5, x1 + i * kTileBytes / 2, kTileRowBytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kW == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kTileRowBytes);
  if constexpr (kW == 2) _tile_stored(1, sums + kTileFloats, kTileRowBytes);
  if constexpr (kX == 2) _tile_stored(2, sums + 2 * kTileFloats, kTileRowBytes);
  if constexpr (kX == 2 && kW == 2) _tile_stored(3, sums + 3 * kTileFloats, kTileRowBytes);
}

// Rows [t0, t0 + split.T) of x times rows [n0, n1) of w.
template <class W>
class TileLinear {
 public:
  TANDEM_INLINE TileLinear(const LinearArgs& args, std::int64_t t0, const TileSplit& split,
                           LinearScratch& scratch)
      : a_(args), t0_(t0), split_(split), s_(scratch) {}

  // At most kMostWeightRows.
  TANDEM_INLINE void Run(std::int64_t n0, std::int64_t n1) {
    n0_ = n0;
    n1_ = n1;
    sums_ = {s_.sums, n0, split_.count};
    // At least one turn: with no columns at all the sums are zero.
    for (std::int64_t k0 = 0; k0 == 0 || k0 < a_.K; k0 += kChunkCols) {
      Decode(k0);
      std::int64_t tile = 0;
      for (; tile + 2 <= split_.count; tile += 2) Multiply<2>(tile, k0);
      if (tile < split_.count) Multiply<1>(tile, k0);
    }
    StoreSums(a_, t0_, split_, sums_, n1);
  }

 private:
  TANDEM_INLINE std::int64_t ChunkEnd(std::int64_t k0) const { return Min(a_.K, k0 + kChunkCols); }
  TANDEM_INLINE const std::uint16_t* X(std::int64_t t, std::int64_t k) const {
    return static_cast<const std::uint16_t*>(a_.x) + RowOfX(a_, t0_ + t) * a_.x_stride + k;
  }
  TANDEM_INLINE W Panel(std::int64_t n) const {
    W panel;
    panel.Prepare(a_, n, Min(kTileRows, n1_ - n));
    return panel;
  }

  // Two panels lie side by side, so that what is loaded together is near. A panel's next columns
  // arrive while its neighbours are decoded and all are multiplied.
  TANDEM_INLINE void Decode(std::int64_t k0) {
    std::uint16_t* to = s_.w;
    for (std::int64_t n = n0_; n < n1_; n += kTileRows) {
      const W panel = Panel(n);
      const std::int64_t i = (n - n0_) / kTileRows;
      panel.Decode(k0, ChunkEnd(k0), to + i / 2 * kPairValues + i % 2 * (kTileBytes / 2),
                   kTileBytes);
      panel.Prefetch(ChunkEnd(k0), ChunkEnd(k0 + kChunkCols));
    }
  }

  template <int kX>
  TANDEM_INLINE void Multiply(std::int64_t tile, std::int64_t k0) {
    for (std::int64_t i = 0; i < kX; ++i) CopyX(tile + i, k0, s_.x + i * kXTile);
    FinishStores(&s_);
    const std::int64_t steps = (ChunkEnd(k0) - k0 + kTileCols - 1) / kTileCols;
    const std::uint16_t* w = s_.w;
    for (std::int64_t n = n0_; n < n1_; n += 2 * kTileRows, w += kPairValues) {
      float* sums = sums_.At(n, tile);
      n1_ - n > kTileRows ? MultiplyTiles<kX, 2>(s_.x, w, steps, k0 == 0, sums)
                          : MultiplyTiles<kX, 1>(s_.x, w, steps, k0 == 0, sums);
    }
  }

  // A tile of x, zeros where the last step lacks columns.
  TANDEM_INLINE void CopyX(std::int64_t tile, std::int64_t k0, std::uint16_t* to) const {
    const std::int64_t cols = ChunkEnd(k0) - k0;
    for (std::int64_t r = 0; r < split_.height; ++r, to += kTileCols) {
      const std::uint16_t* from = X(split_.First(tile) + r, k0);
      for (std::int64_t k = 0; k < cols; k += kTileCols) {
        const std::int64_t left = cols - k;
        const __mmask32 in = left < kTileCols ? (1U << left) - 1 : 0xFFFFFFFF;
        _mm512_store_si512(to + k * kTileRows, _mm512_maskz_loadu_epi16(in, from + k));
      }
    }
  }

  const LinearArgs& a_;
  const std::int64_t t0_;
  const TileSplit split_;
  LinearScratch& s_;
  SumTiles sums_ = {};
  std::int64_t n0_ = 0;
  std::int64_t n1_ = 0;
};

template <class W>
TANDEM_INLINE void LinearTiles(const LinearArgs& args) {
  if (args.T <= 0) return;
  LinearScratch scratch;
  const std::int64_t blocks = (args.T + kMostRows - 1) / kMostRows;
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::int64_t t0 = args.T * i / blocks;
    const TileSplit split(args.T * (i + 1) / blocks - t0);
    const Tiles tiles(split.height, kTileRowBytes);
    TileLinear<W> linear(args, t0, split, scratch);
    for (std::int64_t n = args.n0; n < args.n1; n += kMostWeightRows) {
      linear.Run(n, Min(args.n1, n + kMostWeightRows));
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
