#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/body.h"

// Vectors of 512 bits for the kernels of block formats (quant_body.h): a vector is one word of four
// codes, one integer or one f32 of each of the 16 rows of a panel. The level adds its Dot.

namespace tandem::cpu {
namespace {

struct Int512 {
  using I = __m512i;
  using F = __m512;
  static constexpr int kLanes = 16;
  // Many rows: 6 x 2 (4 x 2 with two runs a group) sums of integers and as many of f32.
  static constexpr int kManyVecs = 2;
  static constexpr int kManyRows[] = {6, 4};
  static constexpr int kExactRows = 8;

  static I LoadI(const void* p) { return _mm512_loadu_si512(p); }
  static void StoreI(void* p, I v) { _mm512_storeu_si512(p, v); }
  static I Byte(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
  static I Set1(std::int32_t v) { return _mm512_set1_epi32(v); }
  static I ZeroI() { return _mm512_setzero_si512(); }
  static I And(I a, I b) { return _mm512_and_si512(a, b); }
  static I OrAnd(I a, I b, I mask) { return _mm512_ternarylogic_epi32(a, b, mask, 0xF8); }
  static I Xor(I a, I b) { return _mm512_xor_si512(a, b); }
  static I Add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I Sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I Max(I a, I b) { return _mm512_max_epi32(a, b); }
  template <int kBits>
  static I Shl(I v) {
    return _mm512_slli_epi32(v, kBits);
  }
  template <int kBits>
  static I Shr(I v) {
    return _mm512_srli_epi32(v, kBits);
  }
  template <int kBits>
  static I ShrSigned(I v) {
    return _mm512_srai_epi32(v, kBits);
  }
  static I Table(const std::uint8_t* entries) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
  }
  static I LookUp(I table, I codes) { return _mm512_shuffle_epi8(table, codes); }

  // Four codes of x for every lane.
  static I Quad(const std::int8_t* p) {
    std::int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return Set1(quad);
  }

  // 16 numbers, widened.
  static I Bytes(const std::uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I SignedBytes(const std::int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I Words(const std::uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F Halves(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  static F ToF(I v) { return _mm512_cvtepi32_ps(v); }
  static F BitsToF(I v) { return _mm512_castsi512_ps(v); }
  static F ZeroF() { return _mm512_setzero_ps(); }
  static F SetF(float v) { return _mm512_set1_ps(v); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F AddF(F a, F b) { return _mm512_add_ps(a, b); }
  static F LoadF(const float* p) { return _mm512_loadu_ps(p); }
  static void StoreF(float* p, F v) { _mm512_storeu_ps(p, v); }
};

}  // namespace
}  // namespace tandem::cpu
