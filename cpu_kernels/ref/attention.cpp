#include "cpu_kernels/attention.h"

#include <cmath>
#include <limits>

#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

constexpr float kLowest =
    -3.0e38F;  // finite: a block of which a query sees nothing changes nothing

// One block of keys; rows in q8_0 and f8 are decoded into the scratch behind the scores.
struct Block {
  const AttentionArgs& a;
  const void* data;
  DType type;
  std::int64_t row;  // elements between tokens

  float Value(std::int64_t token, std::int64_t index) const {
    const std::int64_t at = token * row + index;
    if (type == DType::kF32) return static_cast<const float*>(data)[at];
    const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[at];
    return type == DType::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
  }

  float Score(std::int64_t token, std::int64_t i) const {
    float sum = 0;
    for (std::int64_t c = 0; c < a.dk; ++c) {
      sum += a.q[i * a.q_stride + c] * Value(token, a.k_offset + i * a.k_head_stride + c);
    }
    return a.scale * sum;
  }

  // Scores of one query, then its old sums are rescaled to the new maximum.
  void Add(std::int64_t i, std::int64_t tokens) const {
    float* scores = a.scratch;
    float maximum = a.maximum[i];
    for (std::int64_t j = 0; j < tokens; ++j) {
      scores[j] = Score(j, i);
      maximum = std::fmax(maximum, scores[j]);
    }
    float* out = a.out + i * a.out_stride;
    const float rescale = std::exp(a.maximum[i] - maximum);
    for (std::int64_t c = 0; c < a.dv; ++c) out[c] *= rescale;
    a.sum[i] *= rescale;
    for (std::int64_t j = 0; j < tokens; ++j) {
      const float p = std::exp(scores[j] - maximum);
      a.sum[i] += p;
      const std::int64_t v = a.v_offset + i * a.v_head_stride;
      for (std::int64_t c = 0; c < a.dv; ++c) out[c] += p * Value(j, v + c);
    }
    a.maximum[i] = maximum;
  }
};

void Start(const AttentionArgs& a) {
  for (std::int64_t i = 0; i < a.n; ++i) {
    a.maximum[i] = kLowest;
    a.sum[i] = 0;
    for (std::int64_t c = 0; c < a.dv; ++c) a.out[i * a.out_stride + c] = 0;
  }
}

Block BlockAt(const AttentionArgs& a, std::int64_t j0, std::int64_t tokens) {
  const void* data = a.blocks[j0 / kKvBlockTokens];
  if (a.kv_type == DType::kF32) return {a, data, a.kv_type, a.token_bytes / 4};
  if (a.kv_type == DType::kBF16 || a.kv_type == DType::kF16) {
    return {a, data, a.kv_type, a.token_bytes / 2};
  }
  float* decoded = a.scratch + kKvBlockTokens;
  KvDecode({{a.kv_type, a.dk, a.dv}, data, tokens, decoded, DType::kF32, a.dk});
  return {a, decoded, DType::kF32, a.dk};
}

}  // namespace

void Attention(const AttentionArgs& a) {
  if (!a.carry) Start(a);
  for (std::int64_t j0 = a.first_key; j0 < a.last_key; j0 += kKvBlockTokens) {
    const std::int64_t left = a.last_key - j0;
    const std::int64_t tokens = left < kKvBlockTokens ? left : kKvBlockTokens;
    const Block block = BlockAt(a, j0, tokens);
    for (std::int64_t i = 0; i < a.n; ++i) {
      const std::int64_t seen = a.n_keys[i] - j0;
      if (seen > 0) block.Add(i, seen < tokens ? seen : tokens);
    }
  }
}

}  // namespace tandem::cpu::ref
