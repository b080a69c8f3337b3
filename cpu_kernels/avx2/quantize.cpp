#include <immintrin.h>

#include "cpu_kernels/avx2/kernels.h"
#include "cpu_kernels/quantize_body.h"

namespace tandem::cpu::avx2 {
namespace {

struct Sixteen {
  __m256 low, high;
  static Sixteen Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }

  __m256i Magnitudes() const {
    const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
    return _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(low), mask),
                            _mm256_and_si256(_mm256_castps_si256(high), mask));
  }
  static float Largest(const Sixteen& a, const Sixteen& b) {
    const __m256i eight = _mm256_max_epu32(a.Magnitudes(), b.Magnitudes());
    const __m128i four =
        _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xB1))));
  }

  static __m256i Codes(__m256 x, float inverse) {
    const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(inverse)));
    return _mm256_max_epi32(rounded, _mm256_set1_epi32(-127));
  }
  std::int32_t Store(float inverse, std::int8_t* p) const {
    const __m256i a = Codes(low, inverse);
    const __m256i b = Codes(high, inverse);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    const __m256i eight = _mm256_add_epi32(a, b);
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
  }
};

}  // namespace

void QuantizeRows(const QuantizeArgs& args) { QuantizeRowsOf<Sixteen>(args); }

}  // namespace tandem::cpu::avx2
