#pragma once

#include <CL/cl.h>

#include <cstdint>

#include "cl_kernels/span.h"

namespace tandem::cl {

// MLA (DeepSeek-V2 section 2.1) in its absorbed form, in four launches. H heads, R kv_lora_rank,
// d qk_rope_head_dim, nope qk_nope_head_dim, dv v_head_dim.

// kv[slots[t], :] = RMSNorm(z[t, :R]) | rope(z[t, R:R+d]); z itself is not changed. Rows with a
// negative slot are left out: they go to another buffer.
struct MlaAppendArgs {
  Span z;  // f32 [T, R + d]
  std::int64_t z_stride = 0;
  Span norm_w;  // f32 [R]
  float eps = 0;
  std::int64_t R = 0;
  std::int64_t d = 0;
  Span cos_sin;  // f32 [T, d/2, 2]; pairs are interleaved
  cl_mem kv = nullptr;
  DType kv_type = DType::kF16;  // f32, bf16, f16, or f8 (KvTokenBytes: 656 bytes a token of V3)
  Span slots;
  std::int64_t T = 0;
};

// W_UK and W_UV of all heads: kv_b [H (nope + dv), R], head h's W_UK being its first nope rows; or
// in two: k_b [H R, nope], the transpose of W_UK head by head, and v_b [H dv, R].
struct HeadWeights {
  Weight kv_b;  // buffer null: k_b and v_b
  Weight k_b, v_b;
};

// y[t, h, :R] = W_UK[h]^T q[t, h, :nope],  y[t, h, R:] = rope(q[t, h, nope:])
struct MlaQueryArgs {
  Span q;  // f32 [T, H, nope + d], rows q_stride apart
  std::int64_t q_stride = 0;
  HeadWeights w;
  Span cos_sin;
  Span y;  // f32 [T, H, R + d], packed
  std::int64_t T = 0, H = 0, R = 0, d = 0, nope = 0, dv = 0;
  bool bf16 = false;  // many rows may be rounded to bf16, and the weights
  // Appended by the same launch where the form for few rows runs, else by one before it; of the
  // same rows, with the same cos_sin.
  const MlaAppendArgs* append = nullptr;
};

// For every row t and head h over keys j < n_keys[t], in `splits` runs of keys of the same length
// (whole blocks of 64; a run may be empty):
//   parts[t, h, s, :] = sum_j softmax_j(scale q . K_j) K_j[:R]     lse[t, h, s] = log sum_j
//   exp(...)
// An empty run has lse -inf and zeros. Where a row's keys lie in several buffers, a launch for each
// fills its part of the row: parts and lse begin at its first run, rows are row_splits runs apart.
struct MlaAttentionArgs {
  Span q;  // f32 [T, H, R + d]
  cl_mem kv = nullptr;
  DType kv_type = DType::kF16;
  Span tables;                // i32
  Span table_start;           // i32 [T]
  Span n_keys;                // i32 [T]
  std::int64_t max_keys = 0;  // the largest of n_keys, known to the host
  std::int64_t T = 0, H = 0, R = 0, d = 0;
  float scale = 0;
  std::int64_t splits = 1;      // MlaSplits
  std::int64_t row_splits = 0;  // of all launches for a row; 0: this is the only one
  Span parts;                   // f32
  Span lse;                     // f32 [T, H, splits], natural logarithm
  bool bf16 = false;            // scores and sums may round q and probabilities to bf16 or f16
};

// out[t, h, :] = W_UV[h] u,  u the parts' sum weighted by exp(lse): exact for one split.
struct MlaOutputArgs {
  Span parts;
  Span lse;
  std::int64_t splits = 1;
  HeadWeights w;
  Span out;  // f32 [T, H, dv], rows out_stride apart
  std::int64_t out_stride = 0;
  std::int64_t T = 0, H = 0, R = 0, nope = 0, dv = 0;
  bool bf16 = false;  // as in MlaQueryArgs
};

// MLA in its expanded form, for many rows of one sequence: keys and values of all heads are made of
// the latents, in runs of as many keys as the scratch has room for, and each run's result is joined
// with what the runs before have left in out and lse.
//   out[t, h, :] = sum_j softmax_j(scale q[t, h] . K_j,h) V_j,h      j < n_keys[t]
//   K_j,h = W_UK[h] latent_j | rope_j      V_j,h = W_UV[h] latent_j
struct MlaExpandedArgs {
  Span q;  // f32 [T, H, nope + d], rows q_stride apart, d not yet rotated
  std::int64_t q_stride = 0;
  Span cos_sin;
  cl_mem kv = nullptr;
  DType kv_type = DType::kF16;
  Span tables;                // i32, from the sequence's first block on
  Span n_keys;                // i32 [T], of no row less than of the row before
  std::int64_t max_keys = 0;  // the last of n_keys, known to the host
  HeadWeights w;
  std::int64_t T = 0, H = 0, R = 0, d = 0, nope = 0, dv = 0;
  float scale = 0;
  Span latents;  // scratch of latents_floats f32: MlaLatentFloats for a key of a run
  std::int64_t latents_floats = 0;
  Span expanded;  // scratch of expanded_floats f32: H (nope + dv) for a key, half that in bf16
  std::int64_t expanded_floats = 0;
  Span lse;  // f32 [T, H], natural logarithm
  Span out;  // f32 [T, H, dv], rows out_stride apart
  std::int64_t out_stride = 0;
  bool bf16 = false;  // q, keys, values and probabilities may be rounded to bf16
};

// Floats of MlaExpandedArgs::latents for a key: latent and rope.
constexpr std::int64_t MlaLatentFloats(std::int64_t R, std::int64_t d) { return R + d; }

// Runs of keys that fill a device: T * H * splits is at most max(T * H, kMlaParts + T * H).
inline constexpr std::int64_t kMlaParts = 16 * 528;
inline constexpr std::int64_t kMostMlaSplits = 512;  // of a row
// Runs for which parts and lse have room where a row's attention may be one launch
// (Kernels::MlaOneRow), which chooses their number itself.
inline constexpr std::int64_t kMlaOneRowSplits = 8;
std::int64_t MlaSplits(std::int64_t T, std::int64_t H, std::int64_t max_keys,
                       std::int64_t compute_units);

}  // namespace tandem::cl
