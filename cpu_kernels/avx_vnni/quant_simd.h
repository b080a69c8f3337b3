#pragma once

#include "cpu_kernels/quant_simd256.h"

// vpdpbusd on 8 rows. Included by the files of this
// folder only.

namespace tandem::cpu {
namespace {

struct QuantSimd : Int256 {
  static constexpr bool kVnni = true;
  static constexpr int kFewRows[] = {1, 2, 3, 4};
  static constexpr std::ptrdiff_t kAhead = 4096;  // bytes

  template <int kMaxCode, int kQuads>
  struct Dot {
    I sum;
    Dot() = default;
    explicit TANDEM_INLINE Dot(I start) : sum(start) {}
    template <int q>
    TANDEM_INLINE void Add(I codes, I quad) {
      sum = _mm256_dpbusd_avx_epi32(sum, codes, quad);
    }
    TANDEM_INLINE I Sum() const { return sum; }
  };
};

}  // namespace
}  // namespace tandem::cpu
