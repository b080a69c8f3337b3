#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/amx/decode.h"
#include "cpu_kernels/amx/store.h"
#include "cpu_kernels/amx/tiles.h"
#include "cpu_kernels/linear_rows.h"

// y (+)= x w^T by tdpbf16ps, bf16 rows of x times weights of any format rounded to bf16.
//
// For every 256 columns: 32 rows of w are decoded into 16 KiB of tiles, which stay in L1 while all
// rows of x (up to 512) pass by from L2, 32 at a time: 2 x 2 tiles of sums, so that four tiles
// loaded feed four products. Sums of up to 65536 (x row, w row) pairs wait in L2 between the
// columns. Decoding is thus paid once for 512 rows of x. Every (t, n) is summed in the order of its
// columns, so a result depends on neither the tiling nor its neighbours.
//
// Included by the files of this folder only; in an unnamed namespace, so that no symbol leaves an
// object file.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kChunkCols = 256;
constexpr std::int64_t kChunkTiles = kChunkCols / kTileCols;
constexpr std::int64_t kMostRows = 512;
constexpr std::int64_t kMostSumTiles = 256;

// 528 KiB on the stack of the calling worker: x of one chunk, weights of one chunk as
// [32 columns][panel], sums. Rows of x are copied even where they could be read in place: their
// distance is often a multiple of 4 KiB, which leaves them one set of L1 (the copy gains a third
// for 256 rows).
struct alignas(64) LinearScratch {
  std::uint16_t x[kMostRows * kChunkCols];
  std::uint16_t w[kChunkTiles * 2 * kTileBytes / 2];
  float sums[kMostSumTiles * kTileBytes / 4];
};

// One to two tiles of x times one to two panels of w over the columns of a chunk.
template <int kX, int kW>
TANDEM_INLINE void MultiplyTiles(const std::uint16_t* x, const TileSplit& split, std::int64_t tile,
                                 const std::uint16_t* w, std::int64_t steps, bool first,
                                 float* sums) {
  const std::uint16_t* x0 = x + split.First(tile) * kChunkCols;
  const std::uint16_t* x1 = x + split.First(tile + kX - 1) * kChunkCols;
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
    _tile_loadd(4, x0 + i * kTileCols, kChunkCols * 2);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kW == 2) {
      _tile_loadd(7, w + i * kTileBytes + kTileBytes / 2, kTileRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kX == 2) {
      _tile_loadd(5, x1 + i * kTileCols, kChunkCols * 2);
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

  TANDEM_INLINE void Run(std::int64_t n0, std::int64_t n1) {
    n0_ = n0;
    sums_ = {s_.sums, n0, split_.count};
    n1_ = n1;
    Prefetch(n0, 0);
    // At least one turn: with no columns at all the sums are zero.
    for (std::int64_t k0 = 0; k0 == 0 || k0 < a_.K; k0 += kChunkCols) Chunk(k0);
    StoreSums(a_, t0_, split_, sums_, n1);
  }

 private:
  TANDEM_INLINE std::int64_t ChunkEnd(std::int64_t k0) const { return Min(a_.K, k0 + kChunkCols); }
  TANDEM_INLINE const std::uint16_t* X(std::int64_t t, std::int64_t k) const {
    return static_cast<const std::uint16_t*>(a_.x) + RowOfX(a_, t0_ + t) * a_.x_stride + k;
  }
  TANDEM_INLINE void Prefetch(std::int64_t n, std::int64_t k0) const {
    for (std::int64_t r = n; r < Min(n1_, n + 32); r += kTileRows) {
      W weights;
      weights.Prepare(a_, r, Min(kTileRows, n1_ - r));
      weights.Prefetch(k0, ChunkEnd(k0));
    }
  }

  TANDEM_INLINE void Chunk(std::int64_t k0) {
    const std::int64_t k1 = ChunkEnd(k0);
    CopyX(k0, k1);
    for (std::int64_t n = n0_; n < n1_; n += 32) {
      DecodeRows(n, k0, k1);
      FinishStores(&s_);
      // The next weights arrive while these are multiplied.
      n + 32 < n1_ ? Prefetch(n + 32, k0) : Prefetch(n0_, Min(k1, a_.K));
      const std::int64_t steps = (k1 - k0 + kTileCols - 1) / kTileCols;
      n1_ - n > kTileRows ? MultiplyRows<2>(n, steps, k0 == 0) : MultiplyRows<1>(n, steps, k0 == 0);
    }
  }

  TANDEM_INLINE void DecodeRows(std::int64_t n, std::int64_t k0, std::int64_t k1) {
    for (std::int64_t p = 0; p < 2 && n + p * kTileRows < n1_; ++p) {
      W weights;
      weights.Prepare(a_, n + p * kTileRows, Min(kTileRows, n1_ - n - p * kTileRows));
      weights.Decode(k0, k1, s_.w + p * kTileBytes / 2, kTileBytes);
    }
  }

  // 32 rows of w, or 16, times all rows of x.
  template <int kW>
  TANDEM_INLINE void MultiplyRows(std::int64_t n, std::int64_t steps, bool first) {
    std::int64_t tile = 0;
    for (; tile + 2 <= split_.count; tile += 2) {
      MultiplyTiles<2, kW>(s_.x, split_, tile, s_.w, steps, first, sums_.At(n, tile));
    }
    if (tile < split_.count) {
      MultiplyTiles<1, kW>(s_.x, split_, tile, s_.w, steps, first, sums_.At(n, tile));
    }
  }

  // The rows of a chunk one behind another, zeros where the last step lacks columns.
  TANDEM_INLINE void CopyX(std::int64_t k0, std::int64_t k1) {
    for (std::int64_t t = 0; t < split_.T; ++t) {
      const std::uint16_t* from = X(t, k0);
      std::uint16_t* to = s_.x + t * kChunkCols;
      for (std::int64_t k = 0; k < k1 - k0; k += kTileCols) {
        const std::int64_t left = k1 - k0 - k;
        const __mmask32 in = left < kTileCols ? (1U << left) - 1 : 0xFFFFFFFF;
        _mm512_store_si512(to + k, _mm512_maskz_loadu_epi16(in, from + k));
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
    const std::int64_t most_n = kMostSumTiles / (2 * split.count) * 32;
    TileLinear<W> linear(args, t0, split, scratch);
    for (std::int64_t n = args.n0; n < args.n1; n += most_n) {
      linear.Run(n, Min(args.n1, n + most_n));
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
