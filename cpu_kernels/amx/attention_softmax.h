#pragma once

#include "cpu_kernels/amx/attention_rows.h"
#include "cpu_kernels/amx/attention_task.h"

// Scores to weights. In an unnamed namespace, so that no symbol leaves an object file.

namespace tandem::cpu::amx {
namespace {

// The queries of one group while their keys are at hand; lanes are queries.
struct Softmax {
  const Task& t;
  std::int64_t g;
  const float* scores;
  float* weights;
  __mmask16 there;
  __m512i visible;  // keys of these that a query sees

  Softmax(const Task& task, std::int64_t group, std::int64_t of_two)
      : t(task),
        g(group),
        scores(task.scores + of_two * kScores),
        weights(task.weights + of_two * kWeights) {
    const std::int64_t n = Min(kGroup, t.a.n - g * kGroup);
    there = static_cast<__mmask16>((1U << n) - 1);
    const __m512i seen = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(there, t.a.n_keys + g * kGroup),
                                          _mm512_set1_epi32(static_cast<int>(t.j0)));
    const __m512i most = _mm512_min_epi32(seen, _mm512_set1_epi32(static_cast<int>(t.tokens)));
    visible = _mm512_maskz_mov_epi32(there, _mm512_max_epi32(most, _mm512_setzero_si512()));
  }

  __mmask16 Sees(std::int64_t j) const {
    return _mm512_cmpgt_epi32_mask(visible, _mm512_set1_epi32(static_cast<int>(j)));
  }

  __m512 Highest(__m512 before) const {
    __m512 top = before;
    const std::int64_t all = _mm512_mask_reduce_min_epi32(there, visible);
    std::int64_t j = 0;
    for (; j < all; ++j) {
      top = _mm512_max_ps(top, _mm512_load_ps(scores + j * kGroup));
    }
    for (; j < t.tokens; ++j) {
      top = _mm512_mask_max_ps(top, Sees(j), top, _mm512_load_ps(scores + j * kGroup));
    }
    return top;
  }

  // exp(score - maximum) of two keys as bf16 pairs; `total` counts what the rounding left.
  TANDEM_INLINE __m512i Pair(std::int64_t j, __m512 top, __m512& total) const {
    __m512i bits[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512 s = _mm512_load_ps(scores + (j + i) * kGroup);
      const __m512 p = _mm512_maskz_mov_ps(Sees(j + i), Exponential(_mm512_sub_ps(s, top)));
      const __m512i half = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_set1_epi32(0x8000));
      bits[i] = _mm512_and_si512(half, _mm512_set1_epi32(static_cast<int>(0xFFFF0000)));
      total = _mm512_add_ps(total, _mm512_castsi512_ps(bits[i]));
    }
    return _mm512_or_si512(_mm512_srli_epi32(bits[0], 16), bits[1]);
  }

  // Turns scores into weights, and old sums and outputs to the new maximum.
  void Run() const {
    float* maximum = t.a.maximum + g * kGroup;
    float* sum = t.a.sum + g * kGroup;
    const __m512 before = _mm512_maskz_loadu_ps(there, maximum);
    const __m512 top = Highest(before);
    __m512 total = _mm512_setzero_ps();
    for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) rows[i] = Pair(step * 32 + 2 * i, top, total);
      Transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        _mm512_store_si512(weights + step * kTileFloats + i * 16, rows[i]);
    }
    const __m512 rescale = Exponential(_mm512_sub_ps(before, top));
    const __m512 old = _mm512_maskz_loadu_ps(there, sum);
    _mm512_mask_storeu_ps(sum, there, _mm512_fmadd_ps(old, rescale, total));
    _mm512_mask_storeu_ps(maximum, there, top);
    const __mmask16 moved = _mm512_mask_cmp_ps_mask(there, before, top, _CMP_LT_OQ);
    if (moved != 0) Rescale(rescale, moved);
  }

  void Rescale(__m512 rescale, __mmask16 moved) const {
    alignas(64) float factors[kGroup];
    _mm512_store_ps(factors, rescale);
    float* out = t.Out(g);
    for (std::int64_t i = 0; i < kGroup; ++i, out += t.OutStride(g)) {
      if ((moved >> i & 1) == 0) continue;
      const __m512 f = _mm512_set1_ps(factors[i]);
      for (std::int64_t c = 0; c < t.a.dv; c += 16) {
        _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_loadu_ps(out + c), f));
      }
    }
  }
};

}  // namespace
}  // namespace tandem::cpu::amx
