#pragma once

#include "cpu_kernels/quant_simd256.h"

// Dot products of 8 rows without vpdpbusd. Included by the files of this
// folder only.

namespace tandem::cpu {
namespace {

struct QuantSimd : Int256 {
  static constexpr bool kVnni = false;
  static constexpr int kFewRows[] = {1, 2, 3, 4};
  static constexpr std::ptrdiff_t kAhead = 4096;  // bytes

  // vpmaddubsw adds two products in 16 bits with saturation; as many quads as cannot reach it are
  // added there before they are widened.
  template <int kMaxCode, int kQuads>
  struct Dot {
    static constexpr bool kSignedCodes = kMaxCode > 127;
    static constexpr int kFit = 32767 / (2 * 127 * kMaxCode);
    static constexpr int kChunk = kFit >= kQuads ? kQuads : kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
    I sum, pairs;
    Dot() = default;
    explicit TANDEM_INLINE Dot(I start) : sum(start) {}
    template <int q>
    TANDEM_INLINE void Add(I codes, I quad) {
      const I products = kSignedCodes ? SignedProducts(Xor(codes, Byte(128)), quad)
                                      : _mm256_maddubs_epi16(codes, quad);
      pairs = q % kChunk == 0 ? products : _mm256_add_epi16(pairs, products);
      if constexpr (q % kChunk == kChunk - 1) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      }
    }
    TANDEM_INLINE I Sum() const { return sum; }
  };

  // |w| times x with the sign of w: at most 2 x 128 x 127 a pair.
  static TANDEM_INLINE I SignedProducts(I w, I x) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  }
};

}  // namespace
}  // namespace tandem::cpu
