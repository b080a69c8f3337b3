// y[t, h, n] (+)= sum_k x[t, h, k] w[h * head_rows + row0 + n, k]      n < N, t < T, h < heads
//   x, y : f32, rows and heads *_stride apart      w : WTYPE [rows, K] (weights.cl)
// A plain linear layer has one head. With several this is MLA's un-absorbed value (DeepSeek-V2
// section 2.1.1): every head multiplies its own rows of W_UV.
//   w2 : WTYPE [N2, K], one head. swiglu: y[t, n] (+)= silu(w)[t, n] * (w2)[t, n], N2 = N;
//        else y2[t, n] = sum_k x[t, k] w2[n, k]. N2 = 0: none
//   norm : x is RMSNorm(x) * norm_w, which one work-group writes to norm_out. Not for many rows
//
//   linear_few_<rows>
//       global (blocks * TEAM * TEAMS, ceil(T / rows), heads)   local (TEAM * TEAMS, 1, 1)
//       any number of blocks: each takes every so many-th block of rows of w and w2
//   linear_many_swiglu             without it linear_tile.cl has many rows
//       global (ceil(N / BN) * 256, ceil(T / BM), 1)   local (256, 1, 1)

// The weight rows of this team for block b of the work-groups' blocks.
INLINE void pick_rows(matrix_t* m, long* n, const linear_t* a, matrix_t w, matrix_t w2, long base,
                      int second, long first, int row_team) {
  const long n_end = second ? a->N2 : a->N;
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
    if (a->swiglu) {
      m[r] = r % 2 == 0 ? w : w2;
      n[r] = base + min(first + row_team * (WROWS / 2) + r / 2, n_end - 1);
    } else {
      m[r].data = second ? w2.data : w.data;
      m[r].side = second ? w2.side : w.side;
      m[r].rows = second ? w2.rows : w.rows;
      m[r].K = w.K;
      n[r] = base + min(first + row_team * WROWS + r, n_end - 1);
    }
  }
}

// Outputs [first, first + per_group) of the rows from t0 on.
INLINE void put_rows(const linear_t* a, const local float* totals, global float* y,
                     global float* y2, long h, long t0, int second, long first, int per_group,
                     const int rows) {
  const int per_team = a->swiglu ? WROWS / 2 : WROWS;
  const int ksplit = (int)a->ksplit;
  for (int o = (int)get_local_id(0); o < per_group * rows; o += TEAM * TEAMS) {
    const int t = o / per_group;
    const int i = o % per_group;
    const long n = first + i;
    if (t0 + t >= a->T || n >= (second ? a->N2 : a->N)) continue;
    float v;
    if (a->swiglu) {
      const float gate = team_total(totals, i / per_team, i % per_team * 2, t, ksplit, rows);
      v = silu(gate) * team_total(totals, i / per_team, i % per_team * 2 + 1, t, ksplit, rows);
    } else {
      v = team_total(totals, i / per_team, i % per_team, t, ksplit, rows);
    }
    if (second) {
      y2[a->y2_offset + (t0 + t) * a->y2_stride + n] = v;
    } else {
      put(y + a->y_offset + (t0 + t) * a->y_stride + h * a->y_head_stride + n, v,
          (int)a->accumulate);
    }
  }
}

INLINE void linear_rows(const linear_t* a, matrix_t w, matrix_t w2, input_t in, global float* y,
                        global float* y2, local float4* pool, local float* totals,
                        local float* factor, local float* scratch, const int rows) {
  const long h = get_group_id(2);
  const long t0 = (long)get_group_id(1) * rows;
  const long base = h * a->head_rows + a->row0;
  const int row_team = (int)get_local_id(0) / TEAM / (int)a->ksplit;
  const int per_group = TEAMS / (int)a->ksplit * (a->swiglu ? WROWS / 2 : WROWS);
  const long blocks1 = (a->N + per_group - 1) / per_group;
  const long blocks = blocks1 + (a->swiglu ? 0 : (a->N2 + per_group - 1) / per_group);
  long row_at[8];
#pragma unroll
  for (int t = 0; t < rows; ++t) row_at[t] = min(t0 + t, a->T - 1) * a->x_stride;
  if (in.norm_w) norm_factors(factor, (local float*)pool, in, row_at, a->K, a->eps, rows);

  int staged = 0;
  int set = 0;
  for (long b = get_group_id(0); b < blocks; b += get_num_groups(0)) {
    const int second = b >= blocks1;
    const long first = (second ? b - blocks1 : b) * per_group;
    matrix_t m[WROWS];
    long n[WROWS];
    sum_t sum[WROWS * 8];
    pick_rows(m, n, a, w, w2, base, second, first, row_team);
    zero_sums(sum, rows);
    add_rows(sum, m, n, in, row_at, pool, factor, staged, (int)a->ksplit, rows);
    finish_rows(totals + set, scratch, sum, rows);
    put_rows(a, totals + set, y, y2, h, t0, second, first, per_group, rows);
    staged = stays_staged(w, rows);
    set = set == 0 ? TOTALS(rows) / 2 : 0;
  }
}

#define LINEAR_FEW(NAME, ROWS)                                                                 \
  kernel __attribute__((reqd_work_group_size(TEAM* TEAMS, 1, 1))) void NAME(                   \
      const global float* x, const global uchar* w_buffer, const global uchar* w2_buffer,      \
      global float* y, global float* y2, const global float* norm_w, global float* norm_out,   \
      linear_t a) {                                                                            \
    local float4 pool[POOL];                                                                   \
    local float totals[TOTALS(ROWS)];                                                          \
    local float factor[FACTORS(ROWS)];                                                         \
    local float scratch[SCRATCH(ROWS)];                                                        \
    const matrix_t w = matrix_at(w_buffer, a.w_offset, a.w_side, a.w_rows, a.K);               \
    const matrix_t w2 = matrix_at(w2_buffer, a.w2_offset, a.w2_side, a.w2_rows, a.K);          \
    input_t in = plain_input(x + a.x_offset + (long)get_group_id(2) * a.x_head_stride,         \
                             (int)a.x_aligned);                                                \
    if (a.norm) {                                                                              \
      in.norm_w = norm_w + a.norm_offset;                                                      \
      in.norm_out_stride = a.norm_out_stride;                                                  \
      in.norm_rows = (int)(a.T - (long)get_group_id(1) * ROWS);                                \
      if (get_group_id(0) == 0) {                                                              \
        in.norm_out = norm_out + a.norm_out_offset +                                           \
                      (long)get_group_id(1) * ROWS * a.norm_out_stride;                        \
      }                                                                                        \
    }                                                                                          \
    linear_rows(&a, w, w2, in, y, y2, pool, totals, factor, scratch, ROWS);                    \
  }

LINEAR_FEW(linear_few_1, 1)
LINEAR_FEW(linear_few_2, 2)
LINEAR_FEW(linear_few_4, 4)
#if MAX_ROWS == 8
LINEAR_FEW(linear_few_8, 8)
#endif

// ---- many rows

// Where the rows of x of this tile start, for the whole work-group.
INLINE void tile_starts(local long* row_at, const linear_t* a, long t0) {
  const int lid = (int)get_local_id(0);
  if (lid < BM) row_at[lid] = t0 + lid < a->T ? (t0 + lid) * a->x_stride : -1;
  barrier(CLK_LOCAL_MEM_FENCE);
}

INLINE void put_tile(const linear_t* a, const float* v, global float* y, long h, long t0, long n0) {
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const long t = t0 + tile_row(i);
    global float* row = y + a->y_offset + t * a->y_stride + h * a->y_head_stride;
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const long n = n0 + tile_column(j);
      if (t < a->T && n < a->N) put(row + n, v[i * TN + j], (int)a->accumulate);
    }
  }
}

kernel __attribute__((reqd_work_group_size(TILE_GROUP, 1, 1))) void linear_many_swiglu(
    const global float* x, const global uchar* w_buffer, const global uchar* w2_buffer,
    global float* y, linear_t a) {
  local float tiles[TILE_FLOATS] __attribute__((aligned(16)));
  local long row_at[BM];
  const long t0 = (long)get_group_id(1) * BM;
  const long n0 = (long)get_group_id(0) * BN;
  tile_starts(row_at, &a, t0);
  float gate[TM * TN];
  float up[TM * TN];
  many_rows(gate, tiles, matrix_at(w_buffer, a.w_offset, a.w_side, a.w_rows, a.K), n0, a.N,
            x + a.x_offset, row_at, (int)a.x_aligned);
  many_rows(up, tiles, matrix_at(w2_buffer, a.w2_offset, a.w2_side, a.w2_rows, a.K), n0, a.N,
            x + a.x_offset, row_at, (int)a.x_aligned);
#pragma unroll
  for (int i = 0; i < TM * TN; ++i) gate[i] = silu(gate[i]) * up[i];
  put_tile(&a, gate, y, 0, t0, n0);
}
