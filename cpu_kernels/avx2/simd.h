#pragma once

#include <immintrin.h>

#include <cstdint>

#include "memory/dtype.h"

// The vectors of AVX2 with FMA and F16C, and every storage format as a way to load 16 values of it.
// Included by the files of this folder only; in an unnamed namespace, so that no symbol leaves an
// object file.

namespace tandem::cpu {
namespace {

struct Simd {
  using F = __m256;
  struct Pair {
    F low, high;
  };
  using V = F;
  using Operand = Pair;
  using Element = float;
  static constexpr int kLanes = 8;
  static constexpr int kWidth = 8;
  static constexpr std::int64_t kStep = 16;
  // 12 accumulators, 3 vectors of x and one of w in 16 registers; a tile of w is 24 KiB in L1.
  static constexpr bool kScalesWeights = true;
  static constexpr int kDirectRows = 4;
  static constexpr std::int64_t kDirectMaxT = 8;
  static constexpr int kDirectCols[] = {8, 4, 4, 2};
  static constexpr int kDirectColsScaled[] = {4, 4, 4, 2};
  static constexpr std::int64_t kMicroRows = 3;
  static constexpr std::int64_t kMicroCols = 4;
  static constexpr std::int64_t kTileRows = 48;
  static constexpr std::int64_t kTileCols = 12;
  static constexpr std::int64_t kTileK = 512;
  static constexpr int kTransposedVecs = 2;
  static constexpr int kSharedHeads = 4;
  static constexpr int kSharedKeys = 3;

  static F Zero() { return _mm256_setzero_ps(); }
  static F Set1(float v) { return _mm256_set1_ps(v); }
  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  // Either returns b where a or b is NaN.
  static F Min(F a, F b) { return _mm256_min_ps(a, b); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static float SqrtOne(float v) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v))); }
  static F Round(F v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

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
  static float Sum(F v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float Highest(F v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  // In two factors, so that results may be subnormal or infinite.
  static F ScaleByPowerOf2(F v, F n) {
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return Mul(Mul(v, PowerOf2(half)), PowerOf2(_mm256_sub_epi32(whole, half)));
  }
  static F PowerOf2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }

  // (a, b) -> (a cos - b sin, a sin + b cos) for the pairs of neighbours.
  static F RotatePairs(F x, F cos_sin) {
    const F crossed = _mm256_mul_ps(_mm256_permute_ps(x, 0xB1), _mm256_movehdup_ps(cos_sin));
    return _mm256_fmaddsub_ps(x, _mm256_moveldup_ps(cos_sin), crossed);
  }
  static Pair LoadDeinterleaved(const float* p) {
    const F a = Load(p);
    const F b = Load(p + 8);
    return {InOrder(_mm256_shuffle_ps(a, b, 0x88)), InOrder(_mm256_shuffle_ps(a, b, 0xDD))};
  }
  static F InOrder(F shuffled) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(shuffled), 0xD8));
  }

  static void StoreF16(std::uint16_t* p, F v) {
    // Saturates; NaN stays, because min and max return their second argument then.
    const F top = _mm256_set1_ps(65504.0F);
    const F clamped = _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), top), _mm256_min_ps(top, v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void StoreBf16(std::uint16_t* p, F v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i result = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m256i packed = _mm256_packus_epi32(result, result);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0xD8)));
  }
};

struct F32Format {
  using Bits = float;
  static constexpr bool kIsOperand = true;
  static constexpr bool kScaled = false;
  static Simd::F One(const float* p) { return _mm256_loadu_ps(p); }
  static Simd::Pair Decode(const float* p) { return {One(p), One(p + 8)}; }
};

struct Bf16Format {
  using Bits = std::uint16_t;
  static constexpr bool kIsOperand = false;
  static constexpr bool kScaled = false;
  static Simd::F One(const std::uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Simd::Pair Decode(const std::uint16_t* p) { return {One(p), One(p + 8)}; }
};

struct F16Format {
  using Bits = std::uint16_t;
  static constexpr bool kIsOperand = false;
  static constexpr bool kScaled = false;
  static Simd::F One(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Simd::Pair Decode(const std::uint16_t* p) { return {One(p), One(p + 8)}; }
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
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i shifted = _mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7);
    return _mm256_cvtph_ps(_mm_and_si128(shifted, _mm_set1_epi16(static_cast<short>(0xBFFF))));
  }
  static Simd::Pair Decode(const std::uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256i shifted = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
    const __m256i halves = _mm256_and_si256(shifted, _mm256_set1_epi16(static_cast<short>(0xBFFF)));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
  }
};

}  // namespace
}  // namespace tandem::cpu
