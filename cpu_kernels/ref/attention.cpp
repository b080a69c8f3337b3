#include "cpu_kernels/attention.h"

#include <cmath>
#include <limits>

#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

float KvValue(const AttentionArgs& a, const void* block, std::int64_t index) {
  if (a.kv_type == DType::kF32) return static_cast<const float*>(block)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(block)[index];
  return a.kv_type == DType::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
}

float Score(const AttentionArgs& a, const void* block, std::int64_t token, std::int64_t h) {
  const std::int64_t k = token * a.token_stride + a.k_offset + h * a.k_head_stride;
  float sum = 0;
  for (std::int64_t i = 0; i < a.dk; ++i) {
    sum += a.q[h * a.q_head_stride + i] * KvValue(a, block, k + i);
  }
  return a.scale * sum;
}

struct Running {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0;
};

// One block of keys for one head: scores, then the old sums are rescaled to the new maximum.
void OneBlock(const AttentionArgs& a, const void* block, std::int64_t tokens, std::int64_t h,
              Running& running) {
  float* scores = a.scratch;
  float maximum = running.maximum;
  for (std::int64_t j = 0; j < tokens; ++j) {
    scores[j] = Score(a, block, j, h);
    maximum = std::fmax(maximum, scores[j]);
  }
  float* out = a.out + h * a.out_head_stride;
  const float rescale = std::exp(running.maximum - maximum);
  for (std::int64_t i = 0; i < a.dv; ++i) out[i] *= rescale;
  running.sum *= rescale;
  for (std::int64_t j = 0; j < tokens; ++j) {
    const float p = std::exp(scores[j] - maximum);
    running.sum += p;
    const std::int64_t v = j * a.token_stride + a.v_offset + h * a.v_head_stride;
    for (std::int64_t i = 0; i < a.dv; ++i) out[i] += p * KvValue(a, block, v + i);
  }
  running.maximum = maximum;
}

}  // namespace

void Attention(const AttentionArgs& args) {
  for (std::int64_t h = 0; h < args.heads; ++h) {
    float* out = args.out + h * args.out_head_stride;
    for (std::int64_t i = 0; i < args.dv; ++i) out[i] = 0;
    Running running;
    for (std::int64_t j0 = 0; j0 < args.n_keys; j0 += kKvBlockTokens) {
      const std::int64_t left = args.n_keys - j0;
      OneBlock(args, args.blocks[j0 / kKvBlockTokens],
               left < kKvBlockTokens ? left : kKvBlockTokens, h, running);
    }
    for (std::int64_t i = 0; i < args.dv; ++i) out[i] /= running.sum;
  }
}

}  // namespace tandem::cpu::ref
