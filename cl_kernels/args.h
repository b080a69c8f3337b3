#pragma once

#include <CL/cl.h>

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cl {

// Arguments of the OpenCL launchers. Offsets and strides count elements, offsets of weights bytes.
// All launchers only enqueue on the device's in-order queue. The equations are those of the CPU
// kernels' contracts; activations are f32.

// A range of f32 (or other) values in a device buffer.
struct Span {
  cl_mem buffer = nullptr;
  std::int64_t offset = 0;  // elements
};

// A matrix [rows, cols], row-major, in device memory. FP8: scales f32 [ceil(rows/128),
// ceil(cols/128)] at scale_offset of the same buffer. Offsets are multiples of 256 bytes.
struct Weight {
  cl_mem buffer = nullptr;
  std::uint64_t offset = 0;        // bytes
  std::uint64_t scale_offset = 0;  // bytes
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

// y[t, i] = w[i] * x[t, i] / sqrt(mean(x[t]^2) + eps); y may be x.
struct RmsNormArgs {
  Span x;
  std::int64_t x_stride = 0;
  Span w;  // f32 [D]
  Span y;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  std::int64_t D = 0;
  float eps = 0;
};

// y[t, n] (+)= sum_k x[t, k] w[n, k] for all rows n of w, k < w.cols.
struct LinearArgs {
  Span x;
  std::int64_t x_stride = 0;
  Weight w;
  Span y;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  bool accumulate = false;
};

// Per head h < heads, with W_h = rows [h * head_rows + row0, ... + N) of w:
//   transposed : y[t, h, c] = sum_{n < N} x[t, h, n] W_h[n, c]   c < w.cols     (absorb the query)
//   straight   : y[t, h, n] = sum_{c < w.cols} x[t, h, c] W_h[n, c]   n < N     (un-absorb)
struct HeadLinearArgs {
  Span x;
  std::int64_t x_row_stride = 0;
  std::int64_t x_head_stride = 0;
  Weight w;
  std::int64_t head_rows = 0;
  std::int64_t row0 = 0;
  std::int64_t N = 0;
  Span y;
  std::int64_t y_row_stride = 0;
  std::int64_t y_head_stride = 0;
  std::int64_t T = 0;
  std::int64_t heads = 0;
  bool transposed = false;
};

// In place, for every row t and head: rotation by cos_sin[t] (f32 [T, d/2, 2]).
struct RopeArgs {
  Span x;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t heads = 0;
  std::int64_t d = 0;
  Span cos_sin;
  bool interleaved = true;
  std::int64_t T = 0;
};

// kv[slots[t] * width + i] = x[t, i]      i < width; kv in kv_type (f32, bf16 or f16: to nearest
// even, f16 saturating at 65504)
//   slots : i32 [T], block * 64 + position % 64
struct KvAppendArgs {
  Span x;
  std::int64_t x_stride = 0;
  cl_mem kv = nullptr;
  DType kv_type = DType::kF32;
  std::int64_t width = 0;
  Span slots;
  std::int64_t T = 0;
};

// out[t, h, :] = attention of q[t, h] over n_keys[t] tokens; token j of row t lies in slot
// tables[table_start[t] + j / 64] * 64 + j % 64 of kv. k/v offsets and head strides as in
// cpu_kernels/attention.h. Works for any n_keys >= 1 in fixed local memory (online softmax).
struct AttentionArgs {
  Span q;
  std::int64_t q_row_stride = 0;
  std::int64_t q_head_stride = 0;
  cl_mem kv = nullptr;
  DType kv_type = DType::kF32;
  std::int64_t width = 0;
  std::int64_t k_offset = 0;
  std::int64_t k_head_stride = 0;
  std::int64_t v_offset = 0;
  std::int64_t v_head_stride = 0;
  Span tables;       // i32
  Span table_start;  // i32 [T]
  Span n_keys;       // i32 [T]
  Span out;
  std::int64_t out_row_stride = 0;
  std::int64_t out_head_stride = 0;
  std::int64_t T = 0;
  std::int64_t heads = 0;
  std::int64_t dk = 0;
  std::int64_t dv = 0;
  float scale = 0;
};

// y[t, i] = silu(gate[t, i]) * up[t, i]; y may be gate.
struct SwigluArgs {
  Span gate;
  std::int64_t gate_stride = 0;
  Span up;
  std::int64_t up_stride = 0;
  Span y;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  std::int64_t F = 0;
};

// y[i] += x[i], i < n
struct AddArgs {
  Span x;
  Span y;
  std::int64_t n = 0;
};

// As cpu::RouterArgs: from logits [T, E] to ids i32 [T, K] and weights f32 [T, K]; the same
// selection rule and the same tie-break, so that both sides choose alike.
struct RouterArgs {
  Span logits;
  Span bias;  // buffer null: none
  Span ids;
  Span weights;
  std::int64_t T = 0;
  std::int64_t E = 0;
  std::int64_t K = 0;
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  int scoring = 0;  // cpu::ScoringFunc
  int method = 0;   // cpu::TopkMethod
  bool norm_topk_prob = false;
  bool scale_normalised = true;
  float routed_scaling_factor = 1;
};

// One expert with the pairs (token row, expert) that it serves, as the device reads it. Byte
// offsets into the weights buffer of the launch.
struct ExpertJob {
  cl_ulong gate = 0, gate_scale = 0;
  cl_ulong up = 0, up_scale = 0;
  cl_ulong down = 0, down_scale = 0;
  cl_int first_pair = 0;
  cl_int n_pairs = 0;
};
static_assert(sizeof(ExpertJob) == 56);

// Routed experts whose weights lie in one buffer.
//   act[p, f] = pair_weight[p] * silu(gate_e . x[pair_row[p]])[f] * (up_e . x[pair_row[p]])[f]
//   pair_out[p, d] = (down_e . act[p])[d]
// for every pair p of every job; pairs of one job are consecutive.
struct ExpertsArgs {
  cl_mem weights = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t D = 0;
  std::int64_t F = 0;
  Span jobs;  // ExpertJob [n_jobs], offset in jobs
  std::int64_t n_jobs = 0;
  std::int64_t max_pairs = 0;  // largest n_pairs of these jobs
  Span pair_row;               // i32 [P]
  Span pair_weight;            // f32 [P]
  Span x;
  std::int64_t x_stride = 0;
  Span act;       // f32 [P, F]
  Span gate_up;   // f32 [P, 2F] scratch that an implementation may use
  Span pair_out;  // f32 [P, D]
};

// y[t, d] += sum_k pair_out[token_pairs[t, k], d] over the k with token_pairs[t, k] >= 0, in order.
struct ExpertCombineArgs {
  Span pair_out;
  Span token_pairs;  // i32 [T, K]
  std::int64_t T = 0;
  std::int64_t K = 0;
  std::int64_t D = 0;
  Span y;
  std::int64_t y_stride = 0;
};

}  // namespace tandem::cl
