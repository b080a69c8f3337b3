#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/amx/tiles.h"
#include "cpu_kernels/amx/weights.h"
#include "cpu_kernels/linear_rows.h"

// Weights as bf16 tiles of B: [16 pairs of columns][16 rows][2]. A format is a struct with
//
//   Prepare(args, n, rows): rows [n, n + rows) of w, at most 16
//   Decode(k0, k1, tiles, step): their columns [k0, k1), a tile for every 32 at every `step`
//   values,
//                                zeros in what the last one lacks; k0 is a multiple of 256
//   Prefetch(k0, k1): brings those columns nearer
//
// Included by the files of this folder only; in an unnamed namespace, so that no symbol leaves an
// object file.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kTileCols = 32;  // columns of w, in bf16

// All lines of [p, p + bytes).
TANDEM_INLINE void PrefetchBytes(const void* p, std::int64_t bytes) {
  const char* at = static_cast<const char*>(p);
  for (std::int64_t i = 0; i < bytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T1);
}

// Codes [row][4] to two pairs of columns [row][2] in bf16. A byte is moved into the mantissa of a
// power of two, which makes it an f32 of that power plus the code with no conversion; the power
// goes away in the addend. In the narrow form (7 bits) the power is 128, in the wide one 32768:
// times a scale it is exact in f32 for scales of up to 8 bits beside an f16, and else wrong by less
// than 2^-9 of a scale, where the rounding to bf16 may cost half a scale.
template <bool kWide>
struct ByteWeights {
  static constexpr float kPower = kWide ? 32768 : 128;
  __m512 scale[2], add[2];  // of rows 0 to 7 and 8 to 15, each twice

  TANDEM_INLINE void Set(const ScaleAdd& s) {
    const __m512 add16 = _mm512_fnmadd_ps(s.scale, _mm512_set1_ps(kPower), s.add);
    for (int half = 0; half < 2; ++half) {
      const __m512i twice =
          _mm512_add_epi32(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                           _mm512_set1_epi32(8 * half));
      scale[half] = _mm512_permutexvar_ps(twice, s.scale);
      add[half] = _mm512_permutexvar_ps(twice, add16);
    }
  }
  // Lane i of 16: row 8 half + i / 2, column 2 pair + i % 2.
  TANDEM_INLINE __m512 Value(__m512i codes, int pair, int half) const {
    const __m512i first =
        _mm512_setr_epi32(0, 0x01010101, 0x04040404, 0x05050505, 0x08080808, 0x09090909, 0x0C0C0C0C,
                          0x0D0D0D0D, 0x10101010, 0x11111111, 0x14141414, 0x15151515, 0x18181818,
                          0x19191919, 0x1C1C1C1C, 0x1D1D1D1D);
    const __m512i from =
        _mm512_add_epi8(first, _mm512_set1_epi8(static_cast<char>(32 * half + 2 * pair)));
    const __m512i power = _mm512_castps_si512(_mm512_set1_ps(kPower));
    constexpr __mmask64 kByte = kWide ? 0x2222222222222222 : 0x4444444444444444;
    const __m512i bits = _mm512_mask_permutexvar_epi8(power, kByte, from, codes);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(bits), scale[half], add[half]);
  }
  TANDEM_INLINE void Store(__m512i codes, std::uint16_t* pairs) const {
    for (int pair = 0; pair < 2; ++pair) {
      const __m512bh w = _mm512_cvtne2ps_pbh(Value(codes, pair, 1), Value(codes, pair, 0));
      _mm512_store_si512(pairs + 32 * pair, reinterpret_cast<__m512i>(w));
    }
  }
};

template <class W>
struct PanelTiles {
  using Unit = typename W::Unit;
  static constexpr std::int64_t kRowStep = kPanelRows;
  const Unit* units;

  TANDEM_INLINE void Prepare(const LinearArgs& a, std::int64_t n, std::int64_t /*rows*/) {
    units = static_cast<const Unit*>(a.w) + n / kPanelRows * (a.K / W::kColumns);
  }
  TANDEM_INLINE void Prefetch(std::int64_t k0, std::int64_t k1) const {
    PrefetchBytes(units + k0 / W::kColumns,
                  (k1 - k0) / W::kColumns * static_cast<std::int64_t>(sizeof(Unit)));
  }
  TANDEM_INLINE void Decode(std::int64_t k0, std::int64_t k1, std::uint16_t* tiles,
                            std::int64_t step) const {
    for (std::int64_t k = k0; k < k1; k += W::kColumns) {
      DecodeUnit(units[k / W::kColumns], tiles + (k - k0) / kTileCols * step, step);
    }
  }

 private:
  static TANDEM_INLINE void DecodeUnit(const Unit& unit, std::uint16_t* tiles, std::int64_t step) {
    constexpr int kRuns = W::kColumns / W::kRun;
    constexpr int kQuads = W::kRun / 4;
    ScaleAdd scales[kRuns];
    W::Scales(unit, scales);
    for (int tile = 0; tile < W::kColumns / kTileCols; ++tile) {
      ByteWeights<W::kWide> weights;
#pragma GCC unroll 8
      for (int quad = 0; quad < 8; ++quad) {
        if (quad % kQuads == 0) weights.Set(scales[(tile * 8 + quad) / kQuads]);
        weights.Store(W::Codes(unit, tile * 8 + quad), tiles + tile * step + quad * 64);
      }
    }
  }
};

// 16 rows of 32 values become 16 pairs of columns: a transposition of 32-bit words. Rows r, r + 4,
// r + 8 and r + 12 are first read into the four quarters of a vector, which leaves two steps of
// shuffles instead of four.
struct WordTranspose {
  template <int kQuarter>
  static TANDEM_INLINE __m512i QuartersOf(const std::uint16_t* rows, std::int64_t stride) {
    const auto at = [&](int row) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + row * stride) + kQuarter);
    };
    __m512i v = _mm512_castsi128_si512(at(0));
    v = _mm512_mask_broadcast_i32x4(v, 0x00F0, at(4));
    v = _mm512_mask_broadcast_i32x4(v, 0x0F00, at(8));
    return _mm512_mask_broadcast_i32x4(v, 0xF000, at(12));
  }
  template <int kQuarter>
  static TANDEM_INLINE void FourPairs(const std::uint16_t* rows, std::int64_t stride,
                                      std::uint16_t* tile) {
    const __m512i a = QuartersOf<kQuarter>(rows, stride);
    const __m512i b = QuartersOf<kQuarter>(rows + stride, stride);
    const __m512i c = QuartersOf<kQuarter>(rows + 2 * stride, stride);
    const __m512i d = QuartersOf<kQuarter>(rows + 3 * stride, stride);
    const __m512i ab0 = _mm512_unpacklo_epi32(a, b);
    const __m512i ab1 = _mm512_unpackhi_epi32(a, b);
    const __m512i cd0 = _mm512_unpacklo_epi32(c, d);
    const __m512i cd1 = _mm512_unpackhi_epi32(c, d);
    std::uint16_t* out = tile + kQuarter * 4 * 32;
    _mm512_store_si512(out, _mm512_unpacklo_epi64(ab0, cd0));
    _mm512_store_si512(out + 32, _mm512_unpackhi_epi64(ab0, cd0));
    _mm512_store_si512(out + 64, _mm512_unpacklo_epi64(ab1, cd1));
    _mm512_store_si512(out + 96, _mm512_unpackhi_epi64(ab1, cd1));
  }
  static TANDEM_INLINE void Run(const std::uint16_t* rows, std::int64_t stride,
                                std::uint16_t* tile) {
    FourPairs<0>(rows, stride, tile);
    FourPairs<1>(rows, stride, tile);
    FourPairs<2>(rows, stride, tile);
    FourPairs<3>(rows, stride, tile);
  }
};

TANDEM_INLINE __m512i ToBf16(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// Row-major formats: how 32 values of a row become bf16.
struct RowBf16 {
  using Bits = std::uint16_t;
  static constexpr bool kScaled = false;
  static TANDEM_INLINE __m512i Load(const Bits* p, float /*scale*/) { return LoadBytes(p); }
};

struct RowF32 {
  using Bits = float;
  static constexpr bool kScaled = false;
  static TANDEM_INLINE __m512i Load(const Bits* p, float /*scale*/) {
    return ToBf16(_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16));
  }
};

TANDEM_INLINE __m512 HalvesToF32(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

struct RowF16 {
  using Bits = std::uint16_t;
  static constexpr bool kScaled = false;
  static TANDEM_INLINE __m512i Load(const Bits* p, float /*scale*/) {
    return ToBf16(HalvesToF32(p), HalvesToF32(p + 16));
  }
};

// seeeemmm becomes s0eeeemmm0000000, which as f16 is the value / 256, subnormals included.
struct RowF8 {
  using Bits = std::uint8_t;
  static constexpr bool kScaled = true;
  static TANDEM_INLINE __m512i Load(const Bits* p, float scale) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i shifted = _mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7);
    const __m512i halves = _mm512_and_si512(shifted, _mm512_set1_epi16(static_cast<short>(0xBFFF)));
    const __m512 factor = _mm512_set1_ps(scale * 256);
    return ToBf16(_mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), factor),
                  _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)), factor));
  }
};

template <class W>
struct RowTiles {
  using Bits = typename W::Bits;
  static constexpr std::int64_t kRowStep = 1;
  const LinearArgs* args;
  const Bits* first;
  std::int64_t n, rows;

  TANDEM_INLINE void Prepare(const LinearArgs& a, std::int64_t row, std::int64_t count) {
    args = &a;
    first = WRow<W>(a, row);
    n = row;
    rows = count;
  }
  TANDEM_INLINE void Prefetch(std::int64_t k0, std::int64_t k1) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      PrefetchBytes(first + r * args->K + k0, (k1 - k0) * static_cast<std::int64_t>(sizeof(Bits)));
    }
  }
  TANDEM_INLINE void Decode(std::int64_t k0, std::int64_t k1, std::uint16_t* tiles,
                            std::int64_t step) const {
    for (std::int64_t k = k0; k < k1; k += kTileCols) {
      DecodeTile(k, Min(k1 - k, kTileCols), tiles + (k - k0) / kTileCols * step);
    }
  }

 private:
  TANDEM_INLINE void DecodeTile(std::int64_t k, std::int64_t cols, std::uint16_t* tile) const {
    alignas(64) std::uint16_t values[kTileRows][kTileCols];
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      _mm512_store_si512(values[r], r < rows ? LoadRow(r, k, cols) : _mm512_setzero_si512());
    }
    WordTranspose::Run(values[0], kTileCols, tile);
  }
  TANDEM_INLINE __m512i LoadRow(std::int64_t r, std::int64_t k, std::int64_t cols) const {
    const Bits* p = first + r * args->K + k;
    float scale = 1;
    if constexpr (W::kScaled) scale = ScaleRow(*args, n + r)[k / kFp8Block];
    if (cols == kTileCols) return W::Load(p, scale);
    Padded<Bits, kTileCols> last;
    last.Fill(p, cols);
    return W::Load(last.bits, scale);
  }
};

// 16 whole tiles of bf16 rows are transposed where they lie.
struct Bf16Tiles : RowTiles<RowBf16> {
  TANDEM_INLINE void Decode(std::int64_t k0, std::int64_t k1, std::uint16_t* tiles,
                            std::int64_t step) const {
    const std::int64_t whole = rows == kTileRows ? (k1 - k0) / kTileCols : 0;
    for (std::int64_t i = 0; i < whole; ++i) {
      WordTranspose::Run(first + k0 + i * kTileCols, args->K, tiles + i * step);
    }
    RowTiles::Decode(k0 + whole * kTileCols, k1, tiles + whole * step, step);
  }
};

}  // namespace
}  // namespace tandem::cpu
