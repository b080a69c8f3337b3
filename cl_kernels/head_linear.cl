// y[t, h, c] = sum_{n < N} x[t, h, n] w[h * head_rows + row0 + n, c]      c < C, t < T, h < heads
// MLA's absorbed query (DeepSeek-V2 section 2.1.1): q~ = W_UK^T q, one head at a time.
//   x, y : f32, rows and heads *_stride apart      w : WTYPE [rows, C] row-major
//
// A work-item owns 8 columns of up to MAX_ROWS rows t; the teams of a work-group split n and add up
// through local memory, in an order that depends on nothing but N.
//   head_linear_transposed  global (ceil(C / (8 * TEAM)) * TEAM * TEAMS, ceil(T / MAX_ROWS), heads)
//                           local  (TEAM * TEAMS, 1, 1)
INLINE void transposed_rows(float8* sum, matrix_t w, long base, long N, long c,
                            const global float* x, const long* row_at, const int rows, int team) {
  const int aligned = chunks_fit(w);
#pragma unroll
  for (int t = 0; t < rows; ++t) sum[t] = (float8)(0.0f);
  for (long n = team; n < N; n += TEAMS) {
    const float8 w8 = tile_weights(w, base + n, base + N, c, aligned);
#pragma unroll
    for (int t = 0; t < rows; ++t) sum[t] = fma(w8, (float8)(x[row_at[t] + n]), sum[t]);
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void head_linear_transposed(
    const global float* x, long x_offset, long x_stride, long x_head_stride, const global uchar* w,
    ulong w_offset, ulong scale_offset, long C, long w_rows, long head_rows, long row0, long N,
    global float* y, long y_offset, long y_stride, long y_head_stride, long T) {
  local float partial[TEAMS * TEAM * 8];
  const int lid = (int)get_local_id(0);
  const int team = lid / TEAM;
  const long h = get_group_id(2);
  const long t0 = (long)get_group_id(1) * MAX_ROWS;
  const int rows = (int)min((long)MAX_ROWS, T - t0);
  const long c0 = (long)get_group_id(0) * TEAM * 8;
  const long c = c0 + lid % TEAM * 8;
  const long base = h * head_rows + row0;
  const matrix_t m = matrix_at(w, w_offset, scale_offset, w_rows, C);
  x += x_offset + h * x_head_stride;
  y += y_offset + h * y_head_stride;

  long row_at[MAX_ROWS];
  float8 sum[MAX_ROWS];
  for (int t = 0; t < MAX_ROWS; ++t) row_at[t] = (t0 + min(t, rows - 1)) * x_stride;
  if (rows == 1) {
    transposed_rows(sum, m, base, N, c, x, row_at, 1, team);
  } else if (MAX_ROWS == 4 || rows <= 4) {
    transposed_rows(sum, m, base, N, c, x, row_at, 4, team);
  } else {
    transposed_rows(sum, m, base, N, c, x, row_at, MAX_ROWS, team);
  }
#pragma unroll
  for (int t = 0; t < MAX_ROWS; ++t) {
    if (t < rows) {  // the same for the whole work-group
      vstore8(sum[t], lid, partial);
      TEAM_BARRIER();
      for (int i = lid; i < TEAM * 8; i += TEAM * TEAMS) {
        float total = partial[i];
        for (int split = 1; split < TEAMS; ++split) total += partial[split * TEAM * 8 + i];
        if (c0 + i < C) y[(t0 + t) * y_stride + c0 + i] = total;
      }
      TEAM_BARRIER();
    }
  }
}
