// y[t, i] = w[i] * x[t, i] / sqrt(mean_i(x[t, i]^2) + eps)      t < T, i < D; y may be x
//   x, y : f32 [T, D], rows *_stride apart      w : f32 [D]
//   aligned : every row of x and y, and w, may be loaded 16 bytes at a time
// A work-group per row, whose items take every GROUP-th vector of four. What they keep of x is read
// once, the rest of a long row a second time, from the cache.
//   rmsnorm_f32  global (GROUP, T)   local (GROUP, 1)
#define KEPT 4

// The sum over the work-group's GROUP items, in all of them, in an order that depends on GROUP
// alone. room: SUM_ROOM floats of local memory, which are free again after a barrier.
#define STRANDS (GROUP < 16 ? GROUP : 16)
#define SUM_ROOM (GROUP + STRANDS)
INLINE float sum_of_group(float mine, local float* room) {
  const int lid = (int)get_local_id(0);
  room[lid] = mine;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid < STRANDS) {
    float strand = room[lid];
    for (int i = lid + STRANDS; i < GROUP; i += STRANDS) strand += room[i];
    room[GROUP + lid] = strand;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  float sum = room[GROUP];
  for (int i = 1; i < STRANDS; ++i) sum += room[GROUP + i];
  return sum;
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void rmsnorm_f32(
    const global float* x, long x_offset, long x_stride, const global float* w, long w_offset,
    global float* y, long y_offset, long y_stride, int D, float eps, int aligned) {
  local float room[SUM_ROOM];
  const int lid = (int)get_local_id(0);
  const long t = get_group_id(1);
  x += x_offset + t * x_stride;
  y += y_offset + t * y_stride;
  w += w_offset;
  const int vectors = D / 4;

  float4 kept[KEPT];
  float4 squares = (float4)(0.0f);
#pragma unroll
  for (int j = 0; j < KEPT; ++j) {
    const int i = j * GROUP + lid;
    kept[j] = i < vectors ? load4(x + 4 * i, aligned) : (float4)(0.0f);
    squares = fma(kept[j], kept[j], squares);
  }
  for (int i = KEPT * GROUP + lid; i < vectors; i += GROUP) {
    const float4 v = load4(x + 4 * i, aligned);
    squares = fma(v, v, squares);
  }
  float sum = (squares.x + squares.z) + (squares.y + squares.w);
  for (int i = vectors * 4 + lid; i < D; i += GROUP) sum = fma(x[i], x[i], sum);
  const float factor = 1.0f / sqrt(sum_of_group(sum, room) / (float)D + eps);
#pragma unroll
  for (int j = 0; j < KEPT; ++j) {
    const int i = j * GROUP + lid;
    if (i < vectors) store4(load4(w + 4 * i, aligned) * (kept[j] * factor), y + 4 * i, aligned);
  }
  for (int i = KEPT * GROUP + lid; i < vectors; i += GROUP) {
    store4(load4(w + 4 * i, aligned) * (load4(x + 4 * i, aligned) * factor), y + 4 * i, aligned);
  }
  for (int i = vectors * 4 + lid; i < D; i += GROUP) y[i] = w[i] * (x[i] * factor);
}
