// The generic form of y = x W^T for many rows, which linear.cl and experts.cl share (few_rows.cl
// has that for few); f32 accumulation.
//
//   many rows : work-group of TILE_GROUP work-items; a tile of BM rows of x by BN weight rows, BK
//               values of k at a time through local memory, TM x TN sums in registers each.
//
// Each (row, n) is summed in an order that depends on K and the weight format alone, so within one
// form a row's result does not depend on the rows beside it.
#ifndef BM
#define BM 64
#endif
#ifndef BN
#define BN 128
#endif
#define BK 32
#define TM (BM / 16)
#define TN (BN / 16)
#define TILE_GROUP 256

// A team on a CPU is one work-item in a work-group of its own: nothing to wait for.
#if TEAM * TEAMS > 1
#define TEAM_BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#else
#define TEAM_BARRIER()
#endif

// ---- many rows

// Eight values of the row of x that starts at `at` (negative: no such row), zero beyond K.
INLINE float8 tile_rows(const global float* x, long at, long k, long K, int aligned) {
  if (at < 0 || k >= K) return (float8)(0.0f);
  if (k + 8 <= K) return load8(x + at + k, aligned);
  float v[8];
  for (int i = 0; i < 8; ++i) v[i] = k + i < K ? x[at + k + i] : 0.0f;
  return vload8(0, v);
}

INLINE void store_column(local float* tile, int stride, float8 v) {
  tile[0] = v.s0;
  tile[stride] = v.s1;
  tile[2 * stride] = v.s2;
  tile[3 * stride] = v.s3;
  tile[4 * stride] = v.s4;
  tile[5 * stride] = v.s5;
  tile[6 * stride] = v.s6;
  tile[7 * stride] = v.s7;
}

#define XS_STRIDE (BM + 4)
#define WS_STRIDE (BN + 4)
#define TILE_FLOATS (BK * (XS_STRIDE + WS_STRIDE))

// sum[i * TN + j] = sum_k x[row i of mine, k] w[n0 + column j of mine, k]
//   row_at : local long[BM], where each row of x starts, negative for none
// Work-item (ty, tx) of 16 x 16 owns rows ty * TM + i and columns (j / 4) * 64 + tx * 4 + j % 4, so
// that neighbours read neighbouring banks and write neighbouring values of y.
INLINE void many_rows(float* sum, local float* tiles, matrix_t w, long n0, long n_end,
                      const global float* x, const local long* row_at, int x_aligned) {
  const int lid = (int)get_local_id(0);
  const int tx = lid % 16;
  const int ty = lid / 16;
  const int aligned = chunks_fit(w);
  local float* xs = tiles;                   // [BK][XS_STRIDE]
  local float* ws = tiles + BK * XS_STRIDE;  // [BK][WS_STRIDE]
#pragma unroll
  for (int i = 0; i < TM * TN; ++i) sum[i] = 0.0f;

  for (long k0 = 0; k0 < w.K; k0 += BK) {
    barrier(CLK_LOCAL_MEM_FENCE);  // the tiles of the last round are no longer read
    for (int c = lid; c < BM * (BK / 8); c += TILE_GROUP) {
      const int m = c % BM;
      const int k = c / BM * 8;
      store_column(xs + k * XS_STRIDE + m, XS_STRIDE,
                   tile_rows(x, row_at[m], k0 + k, w.K, x_aligned));
    }
    for (int c = lid; c < BN * (BK / 8); c += TILE_GROUP) {
      const int n = c % BN;
      const int k = c / BN * 8;
      store_column(ws + k * WS_STRIDE + n, WS_STRIDE,
                   tile_weights(w, n0 + n, n_end, k0 + k, aligned));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int k = 0; k < BK; ++k) {
      float xv[TM];
      float wv[TN];
#pragma unroll
      for (int i = 0; i < TM; i += 4) {
        vstore4(*(const local float4*)(xs + k * XS_STRIDE + ty * TM + i), 0, xv + i);
      }
#pragma unroll
      for (int j = 0; j < TN; j += 4) {
        vstore4(*(const local float4*)(ws + k * WS_STRIDE + j * 16 + tx * 4), 0, wv + j);
      }
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) sum[i * TN + j] = fma(xv[i], wv[j], sum[i * TN + j]);
      }
    }
  }
}

INLINE int tile_row(int i) { return (int)get_local_id(0) / 16 * TM + i; }
INLINE int tile_column(int j) { return j / 4 * 64 + (int)get_local_id(0) % 16 * 4 + j % 4; }
