#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/body.h"

// Vectors of 256 bits for the kernels of block formats (quant_body.h): a vector is one word of four
// codes, one integer or one f32 of each of the 8 rows of half a panel. The level adds its Dot.

namespace tandem::cpu {
namespace {

struct Int256 {
  using I = __m256i;
  using F = __m256;
  static constexpr int kLanes = 8;
  // Many rows: 2 x 2 sums of integers and as many of f32 in 16 registers.
  static constexpr int kManyVecs = 2;
  static constexpr int kManyRows[] = {2, 2};
  static constexpr int kExactRows = 4;

  static I LoadI(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void StoreI(void* p, I v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static I Byte(int v) { return _mm256_set1_epi8(static_cast<char>(v)); }
  static I Set1(std::int32_t v) { return _mm256_set1_epi32(v); }
  static I ZeroI() { return _mm256_setzero_si256(); }
  static I And(I a, I b) { return _mm256_and_si256(a, b); }
  static I OrAnd(I a, I b, I mask) { return _mm256_or_si256(a, _mm256_and_si256(b, mask)); }
  static I Xor(I a, I b) { return _mm256_xor_si256(a, b); }
  static I Add(I a, I b) { return _mm256_add_epi32(a, b); }
  static I Sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I Max(I a, I b) { return _mm256_max_epi32(a, b); }
  template <int kBits>
  static I Shl(I v) {
    return _mm256_slli_epi32(v, kBits);
  }
  template <int kBits>
  static I Shr(I v) {
    return _mm256_srli_epi32(v, kBits);
  }
  template <int kBits>
  static I ShrSigned(I v) {
    return _mm256_srai_epi32(v, kBits);
  }
  static I Table(const std::uint8_t* entries) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
  }
  static I LookUp(I table, I codes) { return _mm256_shuffle_epi8(table, codes); }

  // Four codes of x for every lane.
  static I Quad(const std::int8_t* p) {
    std::int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return Set1(quad);
  }

  // 8 numbers, widened.
  static I Bytes(const std::uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static I SignedBytes(const std::int8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static I Words(const std::uint16_t* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F Halves(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  static F ToF(I v) { return _mm256_cvtepi32_ps(v); }
  static F BitsToF(I v) { return _mm256_castsi256_ps(v); }
  static F ZeroF() { return _mm256_setzero_ps(); }
  static F SetF(float v) { return _mm256_set1_ps(v); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F AddF(F a, F b) { return _mm256_add_ps(a, b); }
  static F LoadF(const float* p) { return _mm256_loadu_ps(p); }
  static void StoreF(float* p, F v) { _mm256_storeu_ps(p, v); }
};

}  // namespace
}  // namespace tandem::cpu
