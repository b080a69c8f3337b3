// swiglu_f32     y[t, i] = silu(gate[t, i]) * up[t, i]      i < F; y may be gate
// add_f32        y[i] += x[i]                               i < n
// combine_f32    y[t, d] += sum_k pair_out[token_pairs[t, k], d], in order, over the k with
//                token_pairs[t, k] >= 0
//   all values f32, token_pairs i32 [T, K], pair_out [P, D]
// Each: global (ceil(columns / 64) * 64, T)   local (64, 1)
kernel __attribute__((reqd_work_group_size(64, 1, 1))) void swiglu_f32(
    const global float* gate, long gate_offset, long gate_stride, const global float* up,
    long up_offset, long up_stride, global float* y, long y_offset, long y_stride, long F) {
  const long i = get_global_id(0);
  const long t = get_global_id(1);
  if (i >= F) return;
  y[y_offset + t * y_stride + i] =
      silu(gate[gate_offset + t * gate_stride + i]) * up[up_offset + t * up_stride + i];
}

kernel __attribute__((reqd_work_group_size(64, 1, 1))) void add_f32(const global float* x,
                                                                    long x_offset, global float* y,
                                                                    long y_offset, long n) {
  const long i = get_global_id(0);
  if (i < n) y[y_offset + i] += x[x_offset + i];
}

kernel __attribute__((reqd_work_group_size(64, 1, 1))) void combine_f32(
    const global float* pair_out, long pair_out_offset, const global int* token_pairs,
    long token_pairs_offset, long K, long D, global float* y, long y_offset, long y_stride) {
  const long d = get_global_id(0);
  const long t = get_global_id(1);
  if (d >= D) return;
  const global int* pairs = token_pairs + token_pairs_offset + t * K;
  float sum = y[y_offset + t * y_stride + d];
  for (long k = 0; k < K; ++k) {
    if (pairs[k] >= 0) sum += pair_out[pair_out_offset + pairs[k] * D + d];
  }
  y[y_offset + t * y_stride + d] = sum;
}
