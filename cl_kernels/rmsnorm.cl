// y[t, i] = w[i] * x[t, i] / sqrt(mean_i(x[t, i]^2) + eps)      t < T, i < D; y may be x
//   x, y : f32 [T, D], rows *_stride apart      w : f32 [D]
// A work-group per row; its items add up squares in vectors of 8 (x is reread from cache).
//   rmsnorm_f32  global (GROUP, T)   local (GROUP, 1)
kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void rmsnorm_f32(
    const global float* x, long x_offset, long x_stride, const global float* w, long w_offset,
    global float* y, long y_offset, long y_stride, long D, float eps) {
  local float partial[GROUP];
  const int lid = (int)get_local_id(0);
  const long t = get_group_id(1);
  x += x_offset + t * x_stride;
  y += y_offset + t * y_stride;
  w += w_offset;

  float8 squares = (float8)(0.0f);
  const long vectors = D / 8;
  for (long i = lid; i < vectors; i += GROUP) {
    const float8 v = vload8(i, x);
    squares = fma(v, v, squares);
  }
  float sum = sum8(squares);
  for (long i = vectors * 8 + lid; i < D; i += GROUP) sum = fma(x[i], x[i], sum);
  partial[lid] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_group = GROUP / 2; half_group > 0; half_group /= 2) {
    if (lid < half_group) partial[lid] += partial[lid + half_group];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  const float factor = 1.0f / sqrt(partial[0] / (float)D + eps);
  for (long i = lid; i < vectors; i += GROUP) vstore8(vload8(i, w) * (vload8(i, x) * factor), i, y);
  for (long i = vectors * 8 + lid; i < D; i += GROUP) y[i] = w[i] * (x[i] * factor);
}
