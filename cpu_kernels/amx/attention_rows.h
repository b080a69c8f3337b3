#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/kv_rows.h"

// Rows of the KV cache rounded to bf16, and the reorderings that tiles want. In an unnamed
// namespace, so that no symbol leaves an object file.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kLanes = 16;

TANDEM_INLINE __m512 LoadF32(const float* p, std::int64_t count) {
  if (count >= kLanes) return _mm512_loadu_ps(p);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << (count < 0 ? 0 : count)) - 1), p);
}

TANDEM_INLINE __m256i LoadHalves(const std::uint16_t* p, std::int64_t count) {
  if (count >= kLanes) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << (count < 0 ? 0 : count)) - 1), p);
}

TANDEM_INLINE __m512i RoundPair(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// `n` values, then zeros up to a multiple of 32.
TANDEM_INLINE void RoundF32(const float* x, std::int64_t n, std::uint16_t* y) {
  for (std::int64_t i = 0; i < n; i += 32) {
    const __m512 low = LoadF32(x + i, n - i);
    _mm512_storeu_si512(y + i, RoundPair(low, LoadF32(x + i + 16, n - i - 16)));
  }
}

TANDEM_INLINE void RoundF16(const std::uint16_t* x, std::int64_t n, std::uint16_t* y) {
  for (std::int64_t i = 0; i < n; i += 32) {
    const __m512 low = _mm512_cvtph_ps(LoadHalves(x + i, n - i));
    const __m512 high = _mm512_cvtph_ps(LoadHalves(x + i + 16, n - i - 16));
    _mm512_storeu_si512(y + i, RoundPair(low, high));
  }
}

TANDEM_INLINE void CopyBf16(const std::uint16_t* x, std::int64_t n, std::uint16_t* y) {
  for (std::int64_t i = 0; i < n; i += 32) {
    const __m256i low = LoadHalves(x + i, n - i);
    const __m256i high = LoadHalves(x + i + 16, n - i - 16);
    _mm512_storeu_si512(y + i, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
  }
}

TANDEM_INLINE void RoundQ8(const std::uint8_t* row, std::int64_t n, std::uint16_t* y) {
  for (std::int64_t i = 0; i < n; i += 32, row += 34) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, row, sizeof(bits));
    const __m512 d = _mm512_set1_ps(_cvtsh_ss(bits));
    const auto* q = reinterpret_cast<const __m128i*>(row + 2);
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q + 1)));
    _mm512_storeu_si512(y + i, RoundPair(_mm512_mul_ps(low, d), _mm512_mul_ps(high, d)));
  }
}

// 16 codes e4m3 as f32 / 256: seeeemmm becomes the f16 s0eeeemmm0000000.
TANDEM_INLINE __m512 F8As256th(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i shifted = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
  return _mm512_cvtph_ps(_mm256_and_si256(shifted, _mm256_set1_epi16(static_cast<short>(0xBFFF))));
}

TANDEM_INLINE void RoundF8(const KvLayout& l, const std::uint8_t* row, std::uint16_t* y) {
  const std::uint8_t* scales = row + l.latent;
  for (std::int64_t i = 0; i < l.latent; i += 32) {
    float scale;
    __builtin_memcpy(&scale, scales + i / 128 * 4, sizeof(scale));
    const __m512 d = _mm512_set1_ps(scale * 256);
    const __m512 low = _mm512_mul_ps(F8As256th(row + i), d);
    const __m512 high = _mm512_mul_ps(F8As256th(row + i + 16), d);
    _mm512_storeu_si512(y + i, RoundPair(low, high));
  }
  const auto* rope = reinterpret_cast<const std::uint16_t*>(scales + l.latent / 128 * 4);
  CopyBf16(rope, l.width - l.latent, y + l.latent);
}

// A row's values [offset, offset + n), then zeros up to a multiple of 32. q8_0 and f8 give whole
// rows only: offset 0, n the width of the layout.
TANDEM_INLINE void RoundRow(const KvLayout& l, const void* row, std::int64_t offset, std::int64_t n,
                            std::uint16_t* y) {
  switch (l.type) {
    case DType::kF32:
      return RoundF32(static_cast<const float*>(row) + offset, n, y);
    case DType::kF16:
      return RoundF16(static_cast<const std::uint16_t*>(row) + offset, n, y);
    case DType::kQ8_0:
      return RoundQ8(static_cast<const std::uint8_t*>(row), n, y);
    case DType::kF8E4M3:
      return RoundF8(l, static_cast<const std::uint8_t*>(row), y);
    default:
      return CopyBf16(static_cast<const std::uint16_t*>(row) + offset, n, y);
  }
}

// Rows and columns of 16 x 16 double words change places.
TANDEM_INLINE void Transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 g + c] holds, in its 128-bit lane L, rows 4 g .. 4 g + 3 of column 4 L + c.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    t[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xDD);
    t[8 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xDD);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    r[c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0x88);
    r[4 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0x88);
    r[8 + c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0xDD);
    r[12 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0xDD);
  }
}

// e^x for x <= 0 within a relative 3e-6 and the rounding of x log2 e; far below, 0.
TANDEM_INLINE __m512 Exponential(__m512 x) {
  const __m512 product = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504F));
  const __m512 t = _mm512_max_ps(product, _mm512_set1_ps(-200.0F));
  const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(t, n);
  __m512 p = _mm512_set1_ps(1.33335581e-3F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.61812911e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.55041087e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.40226507e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93147181e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(p, n);
}

}  // namespace
}  // namespace tandem::cpu
