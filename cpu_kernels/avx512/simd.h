#pragma once

#include <immintrin.h>

#include <cstdint>

#include "memory/dtype.h"

// The vectors of AVX-512 and every storage format as a way to load 32 values of it. Included by the
// files of this folder and of avx512_bf16 only; in an unnamed namespace, so that no symbol leaves
// an object file.

namespace tandem::cpu {
namespace {

struct Simd {
  using F = __m512;
  struct Pair {
    F low, high;
  };
  using V = F;
  using Operand = Pair;
  using Element = float;
  static constexpr int kLanes = 16;
  static constexpr int kWidth = 16;
  static constexpr std::int64_t kStep = 32;
  // 24 accumulators, 4 vectors of x and one of w in 32 registers; a tile of w is 24 KiB in L1.
  static constexpr bool kScalesWeights = true;
  static constexpr int kDirectRows = 4;
  static constexpr std::int64_t kDirectMaxT = 8;
  static constexpr int kDirectCols[] = {8, 8, 6, 6};
  static constexpr int kDirectColsScaled[] = {4, 4, 4, 4};
  static constexpr std::int64_t kMicroRows = 4;
  static constexpr std::int64_t kMicroCols = 6;
  static constexpr std::int64_t kTileRows = 64;
  static constexpr std::int64_t kTileCols = 12;
  static constexpr std::int64_t kTileK = 512;
  static constexpr int kTransposedVecs = 4;
  static constexpr int kSharedHeads = 8;
  static constexpr int kSharedKeys = 3;

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set1(float v) { return _mm512_set1_ps(v); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  // Either returns b where a or b is NaN.
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static V LoadV(const float* p) { return Load(p); }
  static F DotV(V x, V w, F sum) { return Fma(x, w, sum); }
  static F Dot(Pair x, Pair w, F sum) { return Fma(x.high, w.high, Fma(x.low, w.low, sum)); }
  static Operand Scale(Operand w, float scale) {
    return {Mul(w.low, Set1(scale)), Mul(w.high, Set1(scale))};
  }
  static void StoreOperand(float* p, std::int64_t stride, Pair v) {
    Store(p, v.low);
    Store(p + stride, v.high);
  }
  static float Sum(F v) { return _mm512_reduce_add_ps(v); }
  static float Highest(F v) { return _mm512_reduce_max_ps(v); }
  static float SqrtOne(float v) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v))); }
  static F Round(F v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F ScaleByPowerOf2(F v, F n) { return _mm512_scalef_ps(v, n); }

  // (a, b) -> (a cos - b sin, a sin + b cos) for the pairs of neighbours.
  static F RotatePairs(F x, F cos_sin) {
    const F crossed = _mm512_mul_ps(_mm512_permute_ps(x, 0xB1), _mm512_movehdup_ps(cos_sin));
    return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(cos_sin), crossed);
  }
  static Pair LoadDeinterleaved(const float* p) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const F a = Load(p);
    const F b = Load(p + 16);
    return {_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)};
  }
  static void StoreF16(std::uint16_t* p, F v) {
    // Saturates; NaN stays, because min and max return their second argument then.
    const F top = _mm512_set1_ps(65504.0F);
    const F clamped = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), top), _mm512_min_ps(top, v));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // Integer rounding: vcvtneps2bf16 would flush subnormals.
  static void StoreBf16(std::uint16_t* p, F v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_set1_epi32(0x40);
    const __m512i result = _mm512_mask_or_epi32(rounded, nan, high, quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(result));
  }
};

struct F32Format {
  using Bits = float;
  static constexpr bool kIsOperand = true;
  static constexpr bool kScaled = false;
  static Simd::F One(const float* p) { return _mm512_loadu_ps(p); }
  static Simd::Pair Decode(const float* p) { return {One(p), One(p + 16)}; }
};

struct Bf16Format {
  using Bits = std::uint16_t;
  static constexpr bool kIsOperand = false;
  static constexpr bool kScaled = false;
  static Simd::F One(const std::uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static Simd::Pair Decode(const std::uint16_t* p) { return {One(p), One(p + 16)}; }
};

struct F16Format {
  using Bits = std::uint16_t;
  static constexpr bool kIsOperand = false;
  static constexpr bool kScaled = false;
  static Simd::F One(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Simd::Pair Decode(const std::uint16_t* p) { return {One(p), One(p + 16)}; }
};

// e4m3 is f16 with three exponent and mantissa bits fewer: seeeemmm becomes s0eeeemmm0000000, which
// as f16 is the value / 256, exactly, subnormals included. The factor goes into the scale.
struct F8Format {
  using Bits = std::uint8_t;
  static constexpr bool kIsOperand = false;
  static constexpr bool kScaled = true;
  static constexpr float kScaleFactor = 256;
  // The sign, extended to bits 15 to 7 by the widening, is cleared where the exponent's top
  // belongs.
  static Simd::F One(const std::uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256i shifted = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
    return _mm512_cvtph_ps(
        _mm256_and_si256(shifted, _mm256_set1_epi16(static_cast<short>(0xBFFF))));
  }
  static Simd::Pair Decode(const std::uint8_t* p) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i shifted = _mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7);
    const __m512i halves = _mm512_and_si512(shifted, _mm512_set1_epi16(static_cast<short>(0xBFFF)));
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))};
  }
};

}  // namespace
}  // namespace tandem::cpu
