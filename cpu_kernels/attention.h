#pragma once

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cpu {

inline constexpr std::int64_t kKvBlockTokens = 64;

// Attention of n queries over one range of a paged KV cache, softmax not yet divided out:
//
//   s[i, j] = scale * sum_c q[i, c] * K(j, i)[c]     c in [0, dk), j in [first_key, last_key)
//   maximum[i] = max_j s[i, j]                       over the j < n_keys[i]: causal
//   sum[i]     = sum_j exp(s[i, j] - maximum[i])
//   out[i, :]  = sum_j exp(s[i, j] - maximum[i]) * V(j, i)[:]                       dv values
//
//   blocks : pointers to blocks of 64 tokens; token j is row j % 64 of blocks[j / 64], rows
//            token_bytes apart. first_key is a multiple of 64. A block's memory is there to its
//            end.
//   kv_type : f32, bf16, f16; q8_0 or f8_e4m3 in the layouts of cpu_kernels/kv_rows.h, where K is
//            the whole row of dk values and V its front
//   K(j, i) starts at element k_offset + i * k_head_stride of the row, V(j, i) at v_offset +
//   i * v_head_stride. MLA in its absorbed form (DeepSeek-V2 section 2.1; one latent shared by all
//   heads): the queries are heads, or heads of several rows, k_head_stride = v_head_stride = 0,
//   k_offset = v_offset = 0, dk = R + d_r, dv = R. One head's rows in the expanded form: strides 0.
//   MHA, one row: a query a head, k_head_stride = dk, v_offset = heads * dk, v_head_stride = dv.
//   q   : f32 [n, dk], q_stride apart                out : f32 [n, dv], out_stride apart
//   carry: goes on from the last call's out, maximum and sum, which took the keys before these with
//   the same q and `packed`; else starts afresh. A query that sees no key has sum 0 and out 0.
//   scratch : f32, AttentionScratchFloats(dk, dv) of them
//   packed : f32, PackedQueryFloats(n, dk) of them; attention_bf16 only
//
// The running maximum (online softmax) makes any number of keys work in fixed scratch. A query's
// results depend on its own q and keys alone, and on how the keys are cut into calls.
struct AttentionArgs {
  const float* q = nullptr;
  std::int64_t q_stride = 0;
  std::int64_t n = 0;
  const void* const* blocks = nullptr;
  DType kv_type = DType::kF32;
  std::int64_t token_bytes = 0;
  std::int64_t k_offset = 0;
  std::int64_t k_head_stride = 0;
  std::int64_t v_offset = 0;
  std::int64_t v_head_stride = 0;
  std::int64_t first_key = 0;
  std::int64_t last_key = 0;
  const std::int32_t* n_keys = nullptr;
  std::int64_t dk = 0;
  std::int64_t dv = 0;
  float scale = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
  float* maximum = nullptr;
  float* sum = nullptr;
  bool carry = false;
  float* scratch = nullptr;
  float* packed = nullptr;
};

// Queries that a kernel takes at a time, and keys.
inline constexpr std::int64_t kAttentionQueries = 16;
inline constexpr std::int64_t kAttentionKeys = 128;

// For any kernel: decoded keys and values of kAttentionKeys tokens, scores and weights of two
// groups of queries, and the outputs of one.
constexpr std::int64_t AttentionScratchFloats(std::int64_t dk, std::int64_t dv) {
  const std::int64_t keys = kAttentionKeys * ((dk + 31) / 32 * 32);
  const std::int64_t values = kAttentionKeys * ((dv + 31) / 32 * 32) / 2;
  return keys + values + 4 * kAttentionKeys * kAttentionQueries + kAttentionQueries * (dv + 32) +
         256;
}

// Queries rounded to bf16 for the tiles, in groups of kAttentionQueries.
constexpr std::int64_t PackedQueryFloats(std::int64_t n, std::int64_t dk) {
  return (n + kAttentionQueries - 1) / kAttentionQueries * ((dk + 31) / 32 * 32) *
         kAttentionQueries / 2;
}

}  // namespace tandem::cpu
