// The products of mla_heads.cl for many rows, on matrix units: x, weights and u are rounded to
// bf16, sums are f32. A work-group makes 128 rows by 128 columns of one head.
//
//   mla_query_mma_transposed, mla_query_mma_straight   groups (ceil(R/128) + 1, ceil(T/128), H);
//   the
//                                                      last of the first dimension turns q's rest
//   mla_output_mma                                     groups (ceil(dv/128), ceil(T/128), H); at
//   most
//                                                      MERGED_SPLITS splits
//   mla_expand_mma_transposed, mla_expand_mma_straight   groups (ceil(N/128), ceil(T/128), H)
//   all: local (256, 1, 1); R, nope and dv are multiples of 8; aligned: rows of x lie on 16 bytes
//
// 64 values of k at a time lie in local memory in bf16, in chunks of 16 bytes that are swapped so
// that ldmatrix meets every bank once: chunk c of row r at c ^ (r % 8). Rows are rows of x and
// columns of the result, or for transposed weights values of k, which ldmatrix turns.
#if NV_COMPUTE >= 80

#define MMA_ITEMS 256
#define TILE 128
#define TILE_K 64
#define MERGED_SPLITS 8
// As many as 128 registers hold: then two work-groups share a multiprocessor.
#if WTYPE == WTYPE_F8
#define STAGE_UNROLL 1
#else
#define STAGE_UNROLL 2
#endif

// Rows of x: of q, or the runs of keys that a row's u is the weighted sum of.
typedef struct {
  const global float* at;
  long stride;
  int rows, aligned;
  const local float* weights;  // [rows, splits]; null: 1
  int splits;
  long run;  // from one split to the next
} head_rows_t;

INLINE float8 head_values(const head_rows_t* x, int row, int k) {
  const global float* const from = x->at + row * x->stride + k;
  if (x->weights == 0) return load8(from, x->aligned);
  float8 sum = (float8)(0.0f);
  for (int s = 0; s < x->splits; ++s) {
    sum = fma((float8)(x->weights[row * x->splits + s]), load8(from + s * x->run, x->aligned), sum);
  }
  return sum;
}

INLINE void put_bf16(local uchar* to, float8 v) {
  *(local uint4*)to = (uint4)(bf16_pair(v.s0, v.s1), bf16_pair(v.s2, v.s3), bf16_pair(v.s4, v.s5),
                              bf16_pair(v.s6, v.s7));
}

INLINE void stage_x(local uchar* tile, const head_rows_t* x, int k0, int K) {
  const int chunk = (int)get_local_id(0) % 8;
  const int k = k0 + chunk * 8;
#pragma unroll STAGE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = (int)get_local_id(0) / 8 + 32 * i;
    const float8 v = row < x->rows && k < K ? head_values(x, row, k) : (float8)(0.0f);
    put_bf16(tile + row * 128 + ((chunk ^ row % 8) << 4), v);
  }
}

// Columns c0 to c0 + 127 of N; weight rows of the head from `base` on are columns, or values of k.
INLINE void stage_w(local uchar* tile, matrix_t w, long base, int c0, int N, int k0, int K,
                    const int transposed) {
  const int fit = chunks_fit(w);
  const int chunks = transposed ? 16 : 8;
  const int chunk = (int)get_local_id(0) % chunks;
#pragma unroll STAGE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = (int)get_local_id(0) / chunks + MMA_ITEMS / chunks * i;
    const float8 v = transposed ? tile_weights(w, base + k0 + row, base + K, c0 + chunk * 8, fit)
                                : tile_weights(w, base + c0 + row, base + N, k0 + chunk * 8, fit);
    put_bf16(tile + row * chunks * 16 + ((chunk ^ row % 8) << 4), v);
  }
}

// acc[m][n][4] of warp: 64 rows x 32 columns, two warps along the rows.
INLINE void head_tile(float* acc, local uchar* x_tile, local uchar* w_tile, const head_rows_t* x,
                      matrix_t w, long base, int c0, int N, int K, const int transposed) {
  const uint lane = (uint)get_local_id(0) % 32;
  const uint warp = (uint)get_local_id(0) / 32;
  const uint x_row = warp % 2 * 64 + lane % 16;
  const uint x_at = shared_address(x_tile) + x_row * 128;
  const uint w_at = shared_address(w_tile);
  const uint c = warp / 2 * 32;
#pragma unroll
  for (int i = 0; i < 64; ++i) acc[i] = 0.0f;
  for (int k0 = 0; k0 < K; k0 += TILE_K) {
    barrier(CLK_LOCAL_MEM_FENCE);
    stage_x(x_tile, x, k0, K);
    stage_w(w_tile, w, base, c0, N, k0, K, transposed);
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint step = 0; step < TILE_K / 16; ++step) {
      uint a[16], b[8];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        ldmatrix_x4(a + 4 * m, x_at + m * 16 * 128 + ((step * 2 + lane / 16 ^ x_row % 8) << 4));
      }
#pragma unroll
      for (uint n = 0; n < 2; ++n) {
        if (transposed) {
          const uint row = step * 16 + lane % 16;
          const uint chunk = (c + n * 16) / 8 + lane / 16;
          ldmatrix_x4_turned(b + 4 * n, w_at + row * 256 + ((chunk ^ row % 8) << 4));
        } else {
          const uint row = c + n * 16 + lane % 8 + lane / 16 * 8;
          const uint chunk = step * 2 + lane / 8 % 2;
          ldmatrix_x4(b + 4 * n, w_at + row * 128 + ((chunk ^ row % 8) << 4));
        }
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          mma_bf16(acc + (m * 4 + n) * 4, a + 4 * m, b[2 * n], b[2 * n + 1]);
        }
      }
    }
  }
}

// y, f32 or bf16, points at row 0 and column 0 of the tile's head.
INLINE void store_tile(const float* acc, global void* y, const int as_bf16, long y_stride, int rows,
                       int c0, int N) {
  const int lane = (int)get_local_id(0) % 32;
  const int warp = (int)get_local_id(0) / 32;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int half8 = 0; half8 < 2; ++half8) {
      const int row = warp % 2 * 64 + m * 16 + half8 * 8 + lane / 4;
      if (row < rows) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int column = c0 + warp / 2 * 32 + n * 8 + lane % 4 * 2;
          const float* const v = acc + (m * 4 + n) * 4 + half8 * 2;
          const long at = row * y_stride + column;
          if (column >= N) continue;
          if (as_bf16) {
            *(global uint*)((global ushort*)y + at) = bf16_pair(v[0], v[1]);
          } else {
            vstore2((float2)(v[0], v[1]), 0, (global float*)y + at);
          }
        }
      }
    }
  }
}

// `transposed` is a constant at each call.
INLINE void query_tile(local uchar* x_tile, local uchar* w_tile, const global float* q,
                       long q_stride, const global uchar* w, ulong w_offset, ulong scale_offset,
                       const global float* cos_sin, global float* y, int T, int H, int R, int d,
                       int nope, int head_rows, int aligned, const int transposed) {
  const int h = (int)get_group_id(2);
  const int t0 = (int)get_group_id(1) * TILE;
  const int rows = min(TILE, T - t0);
  const int c0 = (int)get_group_id(0) * TILE;
  const long y_stride = (long)H * (R + d);
  q += t0 * q_stride + h * (nope + d);
  y += t0 * y_stride + h * (R + d);
  if (c0 >= R) {
    rope_rest(q, q_stride, cos_sin + (long)t0 * d, y, y_stride, rows, R, d, nope, MMA_ITEMS);
    return;
  }
  const head_rows_t x = {q, q_stride, rows, aligned, 0, 1, 0};
  float acc[64];
  if (transposed) {
    const matrix_t m = matrix_at(w, w_offset, scale_offset, (long)H * head_rows, R);
    head_tile(acc, x_tile, w_tile, &x, m, (long)h * head_rows, c0, R, nope, 1);
  } else {
    const matrix_t m = matrix_at(w, w_offset, scale_offset, (long)H * R, nope);
    head_tile(acc, x_tile, w_tile, &x, m, (long)h * R, c0, R, nope, 0);
  }
  store_tile(acc, y, 0, y_stride, rows, c0, R);
}

#define QUERY_MMA(NAME, TRANSPOSED)                                                          \
  kernel __attribute__((reqd_work_group_size(MMA_ITEMS, 1, 1))) void NAME(QUERY_ARGS,        \
                                                                          int aligned) {     \
    local uchar x_tile[TILE * TILE_K * 2] __attribute__((aligned(128)));                     \
    local uchar w_tile[TILE * TILE_K * 2] __attribute__((aligned(128)));                     \
    query_tile(x_tile, w_tile, q + q_offset, q_stride, w, w_offset, scale_offset,            \
               cos_sin + cos_sin_offset, y + y_offset, T, H, R, d, nope, head_rows, aligned, \
               TRANSPOSED);                                                                  \
  }
QUERY_MMA(mla_query_mma_transposed, 1)
QUERY_MMA(mla_query_mma_straight, 0)

// weight[t, s] = exp(lse[t, s]) / sum_s exp(lse[t, s]) of the tile's rows; lse_stride from row to
// row.
INLINE void split_weights(local float* weight, const global float* lse, long lse_stride, int rows,
                          int splits) {
  for (int t = (int)get_local_id(0); t < rows; t += MMA_ITEMS) {
    float largest = -INFINITY;
    for (int s = 0; s < splits; ++s) largest = fmax(largest, lse[t * lse_stride + s]);
    float sum = 0.0f;
    for (int s = 0; s < splits; ++s) sum += exp(lse[t * lse_stride + s] - largest);
    for (int s = 0; s < splits; ++s) {
      weight[t * splits + s] = exp(lse[t * lse_stride + s] - largest) / sum;
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
}

kernel __attribute__((reqd_work_group_size(MMA_ITEMS, 1, 1))) void mla_output_mma(OUTPUT_ARGS,
                                                                                  int aligned) {
  local uchar x_tile[TILE * TILE_K * 2] __attribute__((aligned(128)));
  local uchar w_tile[TILE * TILE_K * 2] __attribute__((aligned(128)));
  local float weight[TILE * MERGED_SPLITS];
  const int h = (int)get_group_id(2);
  const int t0 = (int)get_group_id(1) * TILE;
  const int rows = min(TILE, T - t0);
  const int c0 = (int)get_group_id(0) * TILE;
  const long first = ((long)t0 * H + h) * splits;
  const long row = (long)H * splits;
  head_rows_t x = {parts + parts_offset + first * R, row * R, rows, aligned, 0, splits, R};
  if (splits > 1) {
    split_weights(weight, lse + lse_offset + first, row, rows, splits);
    x.weights = weight;
  }
  const matrix_t m = matrix_at(w, w_offset, scale_offset, (long)H * head_rows, R);
  float acc[64];
  head_tile(acc, x_tile, w_tile, &x, m, (long)h * head_rows + row0, c0, dv, R, 0);
  store_tile(acc, out + out_offset + t0 * out_stride + (long)h * dv, 0, out_stride, rows, c0, dv);
}

// y[t, h, n] = sum_{r < R} x[t, r] w[h * head_rows + n, r], or for transposed weights
//              sum_{r < R} x[t, r] w[h * head_rows + r, n]      n < N, t < T
// in bf16, rows y_stride and heads y_head apart: keys and values of mla_expanded.cl, made of
// latents. N and both strides are even.
#define EXPAND_MMA(NAME, TRANSPOSED)                                                            \
  kernel __attribute__((reqd_work_group_size(MMA_ITEMS, 1, 1))) void NAME(                      \
      const global float* x, long x_offset, const global uchar* w, ulong w_offset,              \
      ulong scale_offset, long w_rows, global float* y, long y_offset, long y_first,            \
      long y_stride, long y_head, int T, int R, int N, int head_rows, int aligned) {            \
    local uchar x_tile[TILE * TILE_K * 2] __attribute__((aligned(128)));                        \
    local uchar w_tile[TILE * TILE_K * 2] __attribute__((aligned(128)));                        \
    const long h = get_group_id(2);                                                             \
    const int t0 = (int)get_group_id(1) * TILE;                                                 \
    const int rows = min(TILE, T - t0);                                                         \
    const int c0 = (int)get_group_id(0) * TILE;                                                 \
    const head_rows_t from = {x + x_offset + (long)t0 * R, R, rows, aligned, 0, 1, 0};          \
    const matrix_t m = matrix_at(w, w_offset, scale_offset, w_rows, TRANSPOSED ? N : R);        \
    float acc[64];                                                                              \
    head_tile(acc, x_tile, w_tile, &from, m, h * head_rows, c0, N, R, TRANSPOSED);              \
    store_tile(acc, (global ushort*)(y + y_offset) + y_first + t0 * y_stride + h * y_head, 1,   \
               y_stride, rows, c0, N);                                                          \
  }

EXPAND_MMA(mla_expand_mma_transposed, 1)
EXPAND_MMA(mla_expand_mma_straight, 0)

#endif  // NV_COMPUTE
