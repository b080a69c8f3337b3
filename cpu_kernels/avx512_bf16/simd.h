#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/avx512/simd.h"

// Products of bf16 by vdpbf16ps. Included by the files of this folder only; in an unnamed
// namespace, so that no symbol leaves an object file.

namespace tandem::cpu {
namespace {

// Lane i of a sum takes elements 2 i and 2 i + 1 of every 32.
struct SimdBf16 : Simd {
  using V = __m512bh;
  using Operand = __m512bh;
  using Element = std::uint16_t;
  static constexpr int kWidth = 32;
  static constexpr std::int64_t kTileK = 1024;
  static constexpr bool kScalesWeights = false;  // times its scale, a weight is no bf16 value

  static V LoadV(const std::uint16_t* p) { return reinterpret_cast<V>(_mm512_loadu_si512(p)); }
  static F DotV(V x, V w, F sum) { return _mm512_dpbf16_ps(sum, x, w); }
  static F Dot(Operand x, Operand w, F sum) { return DotV(x, w, sum); }
  static void StoreOperand(std::uint16_t* p, std::int64_t /*stride*/, Operand v) {
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(v));
  }
};

struct Bf16Operand {
  using Bits = std::uint16_t;
  static constexpr bool kIsOperand = true;
  static constexpr bool kScaled = false;
  static SimdBf16::Operand Decode(const std::uint16_t* p) { return SimdBf16::LoadV(p); }
};

// Every e4m3 value is a bf16 value, the subnormals too: seeeemmm becomes s0eeeemmm0000 plus the
// difference of the biases in the exponent, and a table replaces the 8 magnitudes without a leading
// one.
struct F8Operand {
  using Bits = std::uint8_t;
  static constexpr bool kIsOperand = false;
  static constexpr bool kScaled = true;
  static constexpr float kScaleFactor = 1;
  static SimdBf16::Operand Decode(const std::uint8_t* p) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i wide = _mm512_cvtepi8_epi16(bytes);
    const __m512i shifted = _mm512_and_si512(_mm512_slli_epi16(wide, 4), _mm512_set1_epi16(0x07F0));
    const __m512i normal = _mm512_add_epi16(shifted, _mm512_set1_epi16((127 - 7) << 7));
    const __mmask32 subnormal = _mm512_testn_epi16_mask(wide, _mm512_set1_epi16(0x78));
    const __m512i magnitude =
        _mm512_mask_permutexvar_epi16(normal, subnormal, wide, SubnormalMagnitudes());
    constexpr int kBitOfBWhereCElseA = 0xD8;  // of (a, b, c)
    return reinterpret_cast<SimdBf16::Operand>(_mm512_ternarylogic_epi32(
        magnitude, wide, _mm512_set1_epi16(static_cast<short>(0x8000)), kBitOfBWhereCElseA));
  }
  // m * 2^-9 for m = 0 ... 7, in the first 8 of 32 entries; an index has its upper bits zero here.
  static __m512i SubnormalMagnitudes() {
    return _mm512_castsi128_si512(
        _mm_setr_epi16(0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60));
  }
};

}  // namespace
}  // namespace tandem::cpu
