// swiglu_f32     y[t, i] = silu(gate[t, i]) * up[t, i]      i < F; y may be gate
// add_f32        y[i] += x[i]                               i < n
// combine_f32    y[t, d] += sum_k pair_out[token_pairs[t, k], d], in order, over the k with
//                token_pairs[t, k] >= 0
//   all values f32, token_pairs i32 [T, K], pair_out [P, D]
//   aligned : all rows may be loaded 16 bytes at a time
// Each: global (ceil(columns / 64) * 64, T)   local (64, 1); combine_f32: columns / 4
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

// The first `columns` of four values.
INLINE float4 columns_at(const global float* p, int columns, int aligned) {
  if (columns == 4) return load4(p, aligned);
  return (float4)(p[0], columns > 1 ? p[1] : 0.0f, columns > 2 ? p[2] : 0.0f, 0.0f);
}

// A work-item has four columns. It asks for eight pairs' values before it adds the first.
INLINE float4 plus_pairs(float4 sum, const global int* pairs, int n, const global float* out,
                         long D, int columns, int aligned) {
  for (int k0 = 0; k0 < n; k0 += 8) {
    int pair[8];
    float4 v[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      pair[k] = k0 + k < n ? pairs[k0 + k] : -1;
      if (pair[k] >= 0) v[k] = columns_at(out + pair[k] * D, columns, aligned);
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (pair[k] >= 0) sum += v[k];
    }
  }
  return sum;
}

kernel __attribute__((reqd_work_group_size(64, 1, 1))) void combine_f32(
    const global float* pair_out, long pair_out_offset, const global int* token_pairs,
    long token_pairs_offset, int K, long D, global float* y, long y_offset, long y_stride,
    int aligned) {
  const long d = (long)get_global_id(0) * 4;
  const long t = get_global_id(1);
  if (d >= D) return;
  const int columns = (int)min(D - d, 4L);
  y += y_offset + t * y_stride + d;
  const float4 sum =
      plus_pairs(columns_at(y, columns, aligned), token_pairs + token_pairs_offset + t * K, K,
                 pair_out + pair_out_offset + d, D, columns, aligned);
  if (columns == 4) {
    store4(sum, y, aligned);
  } else {
    y[0] = sum.x;
    if (columns > 1) y[1] = sum.y;
    if (columns > 2) y[2] = sum.z;
  }
}
