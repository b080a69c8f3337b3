// The part of linear_tile_parts.cl that depends on TILE_T, TILE_N and TILE_K: the host puts this
// text into the program once for each shape.
//   TILE_T x TILE_N  rows of x by weight rows of a work-group
//   TILE_K           columns in local memory at a time
#undef KSPLIT
#undef SWIZZLE
#define KSPLIT (128 * 128 / (TILE_T * TILE_N))
#define SWIZZLE (256 / TILE_K)
#ifndef TILE
#define TILE_PASTED(name, t, n) name##_##t##x##n
#define TILE_EXPANDED(name, t, n) TILE_PASTED(name, t, n)
#define TILE(name) TILE_EXPANDED(name, TILE_T, TILE_N)
#endif

// Eight columns of a row of x and of a row of w; beyond K they are zeros.
INLINE void TILE(fetch)(float8* xv, float8* wv, const tile_from_t* from, long k0) {
  const int lid = (int)get_local_id(0);
  const long k = k0 + lid % (TILE_K / 8) * 8;
  *xv = tile_rows(from->x, from->x_at, k, from->w.K, from->x_aligned);
  if (TILE_N * TILE_K / 8 == TILE_ITEMS || lid < TILE_N * TILE_K / 8) {
    *wv = tile_weights(from->w, from->n, from->n_end, k, from->w_aligned);
  }
}

INLINE void TILE(store)(local float* xs, local float* ws, float8 xv, float8 wv) {
  const int lid = (int)get_local_id(0);
  const int eighth = lid % (TILE_K / 8);
  const int row = lid / (TILE_K / 8) ^ (eighth * SWIZZLE);
  store_column(xs + eighth * 8 * TILE_T + row, TILE_T, xv);
  if (TILE_N * TILE_K / 8 == TILE_ITEMS || lid < TILE_N * TILE_K / 8) {
    store_column(ws + eighth * 8 * TILE_N + row, TILE_N, wv);
  }
}

// sum += the products of this item's share of the columns in local memory.
INLINE void TILE(multiply)(float* sum, const local float* xs, const local float* ws,
                           tile_item_t at) {
#pragma unroll
  for (int part = 0; part < TILE_K / 8 / KSPLIT; ++part) {
    const int eighth = at.split * (TILE_K / 8 / KSPLIT) + part;
    const local float* xk = xs + eighth * 8 * TILE_T + (at.ty * 4 ^ (eighth * SWIZZLE));
    const local float* wk = ws + eighth * 8 * TILE_N + (at.tx * 4 ^ (eighth * SWIZZLE));
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float4 x0 = *(const local float4*)(xk + k * TILE_T);
      const float4 x1 = *(const local float4*)(xk + k * TILE_T + TILE_T / 2);
      const float4 w0 = *(const local float4*)(wk + k * TILE_N);
      const float4 w1 = *(const local float4*)(wk + k * TILE_N + TILE_N / 2);
      const float xv[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
      const float wv[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[i * 8 + j] = fma(xv[i], wv[j], sum[i * 8 + j]);
      }
    }
  }
}

// The shares of K, added up in the items of the first.
INLINE void TILE(join)(float* sum, local float* pool, tile_item_t at) {
#pragma unroll
  for (int half_splits = KSPLIT / 2; half_splits > 0; half_splits /= 2) {
    const int items = half_splits * (TILE_ITEMS / KSPLIT);
    const int lid = (int)get_local_id(0);
    if (lid >= items && lid < 2 * items) {
#pragma unroll
      for (int i = 0; i < 64; ++i) pool[i * items + lid - items] = sum[i];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lid < items) {
#pragma unroll
      for (int i = 0; i < 64; ++i) sum[i] += pool[i * items + lid];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
}

kernel __attribute__((reqd_work_group_size(TILE_ITEMS, 1, 1))) void TILE(linear_tile)(

    const global float* x, const global uchar* w_buffer, global float* y, linear_t a) {
  local float pool[TILE_POOL] __attribute__((aligned(16)));
  const int lid = (int)get_local_id(0);
  const int row = lid / (TILE_K / 8);
  const long h = get_group_id(2);
  const long t0 = (long)get_group_id(1) * TILE_T;
  const long n0 = (long)get_group_id(0) * TILE_N;
  tile_from_t from;
  from.x = x + a.x_offset + h * a.x_head_stride;
  from.x_at = min(t0 + row, a.T - 1) * a.x_stride;
  from.x_aligned = (int)a.x_aligned;
  from.w = matrix_at(w_buffer, a.w_offset, a.w_side, a.w_rows, a.K);
  from.n = h * a.head_rows + a.row0 + min(n0 + row, a.N - 1);
  from.n_end = h * a.head_rows + a.row0 + a.N;
  from.w_aligned = chunks_fit(from.w);
  const tile_item_t at = tile_item(TILE_N / 64, KSPLIT);
  float sum[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) sum[i] = 0.0f;
  float8 xv;
  float8 wv;
  TILE(fetch)(&xv, &wv, &from, 0);
  TILE(store)(pool, pool + TILE_K * TILE_T, xv, wv);
  barrier(CLK_LOCAL_MEM_FENCE);
  int stage = 0;
  for (long k0 = 0; k0 < a.K; k0 += TILE_K) {
    local float* const now = pool + stage * (TILE_K * (TILE_T + TILE_N));
    stage ^= 1;
    local float* const then = pool + stage * (TILE_K * (TILE_T + TILE_N));
    if (k0 + TILE_K < a.K) TILE(fetch)(&xv, &wv, &from, k0 + TILE_K);
    TILE(multiply)(sum, now, now + TILE_K * TILE_T, at);
    if (k0 + TILE_K < a.K) TILE(store)(then, then + TILE_K * TILE_T, xv, wv);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  TILE(join)(sum, pool, at);
  if (at.split == 0) {
    put_tile_sums(&a, sum, y + a.y_offset + h * a.y_head_stride, t0 + at.ty * 4, TILE_T / 2,
                  n0 + at.tx * 4, TILE_N / 2);
  }
}
