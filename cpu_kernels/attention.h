#pragma once

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cpu {

inline constexpr std::int64_t kKvBlockTokens = 64;

// Causal attention of one query row over a paged KV cache, for some of its heads:
//
//   s[h, j] = scale * sum_i q[h, i] * K(j, h)[i]      i in [0, dk), j in [0, n_keys)
//   out[h, :] = sum_j softmax_j(s[h, j]) * V(j, h)[:]            dv values
//
//   blocks : [ceil(n_keys / 64)] pointers, one per block of 64 tokens; token j is row j % 64 of
//            blocks[j / 64], rows token_stride elements apart, in kv_type (f32, bf16, f16)
//   K(j, h) starts at element k_offset + h * k_head_stride of the row, V(j, h) at
//   v_offset + h * v_head_stride. MLA in its absorbed form (DeepSeek-V2 section 2.1; one latent
//   shared by all heads): k_head_stride = v_head_stride = 0, k_offset = v_offset = 0, dk = R + d_r,
//   dv = R, so V is the front of K. MHA: k_head_stride = dk, v_offset = heads * dk,
//   v_head_stride = dv.
//   q   : f32 [heads, dk], heads q_head_stride apart      out : f32 [heads, dv], out_head_stride
//   h runs over [0, heads) here; a caller that splits heads moves q, out, k_offset and v_offset.
//   scratch : f32, at least AttentionScratchFloats(heads, dv) of them
//
// Softmax in f32 with the running maximum (online), so any n_keys >= 1 works in fixed scratch. The
// result of a row depends on nothing but that row.
struct AttentionArgs {
  const float* q = nullptr;
  std::int64_t q_head_stride = 0;
  const void* const* blocks = nullptr;
  DType kv_type = DType::kF32;
  std::int64_t token_stride = 0;
  std::int64_t k_offset = 0;
  std::int64_t k_head_stride = 0;
  std::int64_t v_offset = 0;
  std::int64_t v_head_stride = 0;
  std::int64_t n_keys = 0;
  std::int64_t heads = 0;
  std::int64_t dk = 0;
  std::int64_t dv = 0;
  float scale = 0;
  float* out = nullptr;
  std::int64_t out_head_stride = 0;
  float* scratch = nullptr;
};

// Scores of one block of keys, and the running maximum and sum of every head.
constexpr std::int64_t AttentionScratchFloats(std::int64_t heads, std::int64_t /*dv*/) {
  return heads * (kKvBlockTokens + 2) + 64;
}

}  // namespace tandem::cpu
