// The two forms of y = x W^T that linear.cl, head_linear.cl and experts.cl share; f32 accumulation.
//
//   few rows  : work-group of TEAMS teams; a team sums WROWS (or 1) weight rows against up to
//               MAX_ROWS rows of x and reads each weight once: bound by the bandwidth of weights.
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

// 8 suits a GPU; 4 x WROWS vector sums are what the registers of a CPU hold.
#ifndef MAX_ROWS
#define MAX_ROWS 4
#endif

#if TEAM == 1
typedef float8 sum_t;
#define SUM_ZERO ((float8)(0.0f))
#define TOTAL(sum) sum8(sum)
#else
typedef float sum_t;
#define SUM_ZERO 0.0f
#define TOTAL(sum) (sum)
#endif

INLINE sum_t multiply_add(float8 w, float8 x, sum_t sum) {
#if TEAM == 1
  return fma(w, x, sum);
#else
  return dot8(w, x, sum);
#endif
}

INLINE sum_t multiply_add_one(float w, float x, sum_t sum) {
#if TEAM == 1
  sum.s0 = fma(w, x, sum.s0);
  return sum;
#else
  return fma(w, x, sum);
#endif
}

// This lane's part of sum_k x[row_at[t], k] w[n0 + r, k] for t < rows, r < wrows, to partial as
// [r][t][lane]. `rows` and `wrows` are constants at each call, so that the sums stay in registers.
// Weight rows from n_end on are read as the last one; the caller drops their sums.
INLINE void few_rows(local float* partial, matrix_t w, long n0, long n_end, const global float* x,
                     const long* row_at, int x_aligned, const int rows, const int wrows, int lane) {
  sum_t sum[WROWS * MAX_ROWS];
  long row[WROWS];
#pragma unroll
  for (int i = 0; i < wrows * rows; ++i) sum[i] = SUM_ZERO;
#pragma unroll
  for (int r = 0; r < wrows; ++r) row[r] = min(n0 + r, n_end - 1);

  const long chunked = chunks_fit(w) ? w.K / 8 * 8 : 0;
  for (long k = (long)lane * 8; k < chunked; k += TEAM * 8) {
    float8 w8[WROWS];
#pragma unroll
    for (int r = 0; r < wrows; ++r) w8[r] = weights8(w, row[r], k);
#pragma unroll
    for (int t = 0; t < rows; ++t) {
      const float8 x8 = load8(x + row_at[t] + k, x_aligned);
#pragma unroll
      for (int r = 0; r < wrows; ++r) {
        sum[r * rows + t] = multiply_add(w8[r], x8, sum[r * rows + t]);
      }
    }
  }
#if SCALAR_FORMAT
  for (long k = chunked + lane; k < w.K; k += TEAM) {
#pragma unroll
    for (int r = 0; r < wrows; ++r) {
      const float wk = weight_at(w, row[r], k);
#pragma unroll
      for (int t = 0; t < rows; ++t) {
        sum[r * rows + t] = multiply_add_one(wk, x[row_at[t] + k], sum[r * rows + t]);
      }
    }
  }
#endif
#pragma unroll
  for (int i = 0; i < wrows * rows; ++i) partial[i * (TEAM + 1) + lane] = TOTAL(sum[i]);
}

// Rows of x that few_rows takes: 1, 4 or 8, the excess repeating the last row.
INLINE int padded_rows(int rows) { return rows == 1 ? 1 : rows <= 4 ? 4 : 8; }

// few_rows for a number of rows known only now; `cap` (1 or MAX_ROWS) and `wrows` are constants.
// The choice is the same for the whole work-group, and there is no barrier inside.
INLINE void few_rows_any(local float* partial, matrix_t w, long n0, long n_end,
                         const global float* x, const long* row_at, int x_aligned, int rows,
                         const int cap, const int wrows, int lane) {
  if (cap == 1 || rows == 1) {
    few_rows(partial, w, n0, n_end, x, row_at, x_aligned, 1, wrows, lane);
  } else if (cap == 4 || rows <= 4) {
    few_rows(partial, w, n0, n_end, x, row_at, x_aligned, 4, wrows, lane);
  } else {
    few_rows(partial, w, n0, n_end, x, row_at, x_aligned, 8, wrows, lane);
  }
}

// Floats of local memory that a work-group needs for its partial sums; those of one team.
#define TEAM_PARTIALS(cap, wrows) ((wrows) * (cap) * (TEAM + 1))
#define GROUP_PARTIALS(cap, wrows) (TEAMS * TEAM_PARTIALS(cap, wrows))

// The sum of team `team` for its weight row r and row t of padded_rows(...).
INLINE float team_total(const local float* partial, int team, int r, int t, int padded,
                        const int cap, const int wrows) {
  const local float* p = partial + team * TEAM_PARTIALS(cap, wrows) + (r * padded + t) * (TEAM + 1);
  float total = p[0];
  for (int lane = 1; lane < TEAM; ++lane) total += p[lane];
  return total;
}

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
      store_column(ws + k * WS_STRIDE + n, WS_STRIDE, tile_weights(w, n0 + n, n_end, k0 + k, aligned));
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
