// y[t, h, n] (+)= sum_k x[t, h, k] w[h * head_rows + row0 + n, k]      n < N, t < T, h < heads
//   x, y : f32, rows and heads *_stride apart      w : WTYPE [rows, K] row-major
// A plain linear layer has one head. With several this is MLA's un-absorbed value (DeepSeek-V2
// section 2.1.1): every head multiplies its own rows of W_UV.
//
//   linear_few[_1][_narrow]
//       global (ceil(N / (TEAMS * wrows)) * TEAM * TEAMS, ceil(T / cap), heads)
//       local  (TEAM * TEAMS, 1, 1);  narrow: wrows 1, for N too small to fill the device otherwise
//   linear_many
//       global (ceil(N / BN) * 256, ceil(T / BM), heads)   local (256, 1, 1)
#define LINEAR_ARGS                                                                              \
  const global float *x, long x_offset, long x_stride, long x_head_stride, int x_aligned,        \
      const global uchar *w, ulong w_offset, ulong scale_offset, long K, long w_rows,            \
      long head_rows, long row0, long N, global float *y, long y_offset, long y_stride, long y_head_stride,      \
      long T, int accumulate

INLINE void put(global float* y, float value, int accumulate) {
  *y = accumulate ? *y + value : value;
}

#define LINEAR_FEW(NAME, CAP, WIDE)                                                              \
  kernel __attribute__((reqd_work_group_size(TEAM* TEAMS, 1, 1))) void NAME(LINEAR_ARGS) {       \
    local float partial[GROUP_PARTIALS(CAP, WIDE)];                                              \
    const int lid = (int)get_local_id(0);                                                        \
    const int team = lid / TEAM;                                                                 \
    const long h = get_group_id(2);                                                              \
    const long t0 = (long)get_group_id(1) * CAP;                                                 \
    const int rows = (int)min((long)CAP, T - t0);                                                \
    const long base = h * head_rows + row0;                                                      \
    const long n0 = (long)get_group_id(0) * TEAMS * WIDE;                                        \
    long row_at[CAP];                                                                            \
    for (int t = 0; t < CAP; ++t) row_at[t] = (t0 + min(t, rows - 1)) * x_stride;                \
    few_rows_any(partial + team * TEAM_PARTIALS(CAP, WIDE),                                      \
                 matrix_at(w, w_offset, scale_offset, w_rows, K), base + n0 + team * WIDE, base + N, \
                 x + x_offset + h * x_head_stride, row_at, x_aligned, rows, CAP, WIDE,           \
                 lid % TEAM);                                                                    \
    TEAM_BARRIER();                                                                              \
    for (int o = lid; o < TEAMS * WIDE * rows; o += TEAM * TEAMS) {                              \
      const int t = o / (TEAMS * WIDE);                                                          \
      const int n = o % (TEAMS * WIDE);                                                          \
      const float total =                                                                        \
          team_total(partial, n / WIDE, n % WIDE, t, padded_rows(rows), CAP, WIDE);              \
      if (n0 + n < N) {                                                                          \
        put(y + y_offset + (t0 + t) * y_stride + h * y_head_stride + n0 + n, total, accumulate); \
      }                                                                                          \
    }                                                                                            \
  }

LINEAR_FEW(linear_few_1, 1, WROWS)
LINEAR_FEW(linear_few_1_narrow, 1, 1)
LINEAR_FEW(linear_few, MAX_ROWS, WROWS)
LINEAR_FEW(linear_few_narrow, MAX_ROWS, 1)

kernel __attribute__((reqd_work_group_size(TILE_GROUP, 1, 1))) void linear_many(LINEAR_ARGS) {
  local float tiles[TILE_FLOATS] __attribute__((aligned(16)));
  local long row_at[BM];
  const int lid = (int)get_local_id(0);
  const long h = get_group_id(2);
  const long t0 = (long)get_group_id(1) * BM;
  const long n0 = (long)get_group_id(0) * BN;
  const long base = h * head_rows + row0;
  if (lid < BM) row_at[lid] = t0 + lid < T ? (t0 + lid) * x_stride : -1;
  barrier(CLK_LOCAL_MEM_FENCE);

  float sum[TM * TN];
  many_rows(sum, tiles, matrix_at(w, w_offset, scale_offset, w_rows, K), base + n0, base + N,
            x + x_offset + h * x_head_stride, row_at, x_aligned);
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const long t = t0 + tile_row(i);
    global float* row = y + y_offset + t * y_stride + h * y_head_stride;
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const long n = n0 + tile_column(j);
      if (t < T && n < N) put(row + n, sum[i * TN + j], accumulate);
    }
  }
}
