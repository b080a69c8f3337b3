#include <immintrin.h>

#include "cpu_kernels/avx512/kernels.h"
#include "cpu_kernels/quantize_body.h"

namespace tandem::cpu::avx512 {
namespace {

struct Sixteen {
  __m512 x;
  static Sixteen Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static float Largest(const Sixteen& a, const Sixteen& b) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    const __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a.x), magnitude),
                                             _mm512_and_si512(_mm512_castps_si512(b.x), magnitude));
    return _mm_cvtss_f32(
        _mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(_mm512_reduce_max_epu32(largest)))));
  }
  std::int32_t Store(float inverse, std::int8_t* p) const {
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
    const __m512i codes = _mm512_max_epi32(rounded, _mm512_set1_epi32(-127));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(codes));
    return _mm512_reduce_add_epi32(codes);
  }
};

}  // namespace

void QuantizeRows(const QuantizeArgs& args) { QuantizeRowsOf<Sixteen>(args); }

}  // namespace tandem::cpu::avx512
