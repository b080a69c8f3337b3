// MLA's products head by head (DeepSeek-V2 section 2.1.1), W_UK and W_UV of head h being rows of w.
//
//   mla_query_transposed  y[t, h, r] = sum_{n < nope} q[t, h, n] w[h * head_rows + n, r]
//   mla_query_straight    y[t, h, r] = sum_{n < nope} q[t, h, n] w[h * R + r, n]         r < R
//       and both          y[t, h, R + i] = rope(q[t, h, nope : nope + d])[i]
//       and, asked to     the rows' new keys into the cache (mla_append.cl)
//   mla_output            out[t, h, n] = sum_{r < R} u[t, h, r] w[h * head_rows + row0 + n, r]
//                         u = sum_s parts[t, h, s] exp(lse[t, h, s]) / sum_s exp(lse[t, h, s])
//   w : WTYPE, row-major     q : f32, heads nope + d apart, rows q_stride     y : f32 [T, H, R + d]
//   cos_sin : f32 [T, d / 2, 2], interleaved     parts : f32 [T, H, splits, R]     out : f32, rows
//   out_stride apart, heads dv
//
// A work-group takes up to HEAD_ROWS rows t of one head. Sums are taken in an order that depends on
// the shape alone. All: local (TEAM * TEAMS, 1, 1); groups of dimension 1 are rows, 2 heads, and of
// dimension 0
//   mla_query_transposed  ceil(R / QUERY_COLUMNS) + 1; an item owns 8 columns and every QUERY_SLOTS
//                         th n
//   mla_query_straight    ceil(R / per_group) + 1; a team sums weight rows, lanes split n
//   mla_output            ceil(dv / per_group); the same
// After the last of the queries, which turns q's rest, comes one more where keys are appended.
#define MAX_R 512
#define MAX_SPLITS 512
#define HEAD_ROWS 4
#define HEAD_WROWS 4  // weight rows of a team at a time
#define HEAD_ITEMS (TEAM * TEAMS)
// Rows of W_UK whose loads a GPU has under way at once, and columns of a work-group: so few that all
// of a head's loads are.
#if TEAM == 1
#define COLUMN_LOADS 1
#else
#define COLUMN_LOADS 4
#endif
#if TEAM >= 8
#define QUERY_COLUMNS 64
#else
#define QUERY_COLUMNS (TEAM * 8)
#endif
#define QUERY_SLOTS (HEAD_ITEMS * 8 / QUERY_COLUMNS)

#if HEAD_ITEMS == 1
#define HEAD_BARRIER()
#else
#define HEAD_BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#endif

#if TEAM == 1
typedef float8 head_sum_t;
#define HEAD_ZERO ((float8)(0.0f))
#define HEAD_MULTIPLY_ADD(w, x, sum) fma(w, x, sum)
#define HEAD_TOTAL(sum) sum8(sum)
#else
typedef float head_sum_t;
#define HEAD_ZERO 0.0f
#define HEAD_MULTIPLY_ADD(w, x, sum) dot8(w, x, sum)
#define HEAD_TOTAL(sum) (sum)
#endif

// partial[team][i][t][lane]: lanes' parts of sum_k x[t, k] w[n0 + i, k], i < HEAD_WROWS, for rows
// of x in local memory, MAX_R apart and zero from w.K on. `rows` is a constant at each call.
INLINE void lane_sums(local float* partial, matrix_t w, long n0, long n_end, const local float* x,
                      const int rows) {
  const int lane = (int)get_local_id(0) % TEAM;
  const int team = (int)get_local_id(0) / TEAM;
  const int fit = chunks_fit(w);
  head_sum_t sum[HEAD_WROWS * HEAD_ROWS];
#pragma unroll
  for (int i = 0; i < HEAD_WROWS * rows; ++i) sum[i] = HEAD_ZERO;
  for (int k = lane * 8; k < w.K; k += TEAM * 8) {
    float8 w8[HEAD_WROWS];
#pragma unroll
    for (int i = 0; i < HEAD_WROWS; ++i) w8[i] = tile_weights(w, n0 + i, n_end, k, fit);
#pragma unroll
    for (int t = 0; t < rows; ++t) {
      const local float4* x4 = (const local float4*)(x + t * MAX_R + k);
      const float8 x8 = (float8)(x4[0], x4[1]);
#pragma unroll
      for (int i = 0; i < HEAD_WROWS; ++i) {
        sum[i * rows + t] = HEAD_MULTIPLY_ADD(w8[i], x8, sum[i * rows + t]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < HEAD_WROWS; ++i) {
#pragma unroll
    for (int t = 0; t < rows; ++t) {
      partial[((team * HEAD_WROWS + i) * HEAD_ROWS + t) * (TEAM + 1) + lane] =
          HEAD_TOTAL(sum[i * rows + t]);
    }
  }
}

#if NV_COMPUTE >= 70
// Lines of the weight rows that a team is going to read, on their way to the cache.
INLINE void rows_ahead(matrix_t w, long n0, long n_end) {
#if SCALAR_FORMAT
  const long from = n0 * w.K * WBYTES;
  const int bytes = (int)(max(min(n0 + HEAD_WROWS, n_end) - n0, 0l) * w.K * WBYTES);
  for (int b = (int)get_local_id(0) % TEAM * 128; b < bytes; b += TEAM * 128) {
    asm volatile("prefetch.global.L2 [%0];" : : "l"(w.data + from + b));
  }
#endif
}
#else
INLINE void rows_ahead(matrix_t w, long n0, long n_end) {}
#endif

// y[t * y_stride + n] = sum_k x[t, k] w[row0 + n, k]      n in [first, last), t < rows
INLINE void straight(global float* y, long y_stride, matrix_t w, long row0, int first, int last,
                     const local float* x, int rows, local float* partial) {
  const int lid = (int)get_local_id(0);
  for (int n0 = first; n0 < last; n0 += TEAMS * HEAD_WROWS) {
    const long n = row0 + n0 + lid / TEAM * HEAD_WROWS;
    if (rows == 1) {
      lane_sums(partial, w, n, row0 + last, x, 1);
    } else {
      lane_sums(partial, w, n, row0 + last, x, HEAD_ROWS);
    }
    HEAD_BARRIER();
    for (int i = lid; i < TEAMS * HEAD_WROWS * HEAD_ROWS; i += HEAD_ITEMS) {
      const int t = i % HEAD_ROWS;
      const int at = n0 + i / HEAD_ROWS;
      if (t < rows && at < last) {
        float total = partial[i * (TEAM + 1)];
        for (int lane = 1; lane < TEAM; ++lane) total += partial[i * (TEAM + 1) + lane];
        y[t * y_stride + at] = total;
      }
    }
    HEAD_BARRIER();
  }
}

#define QUERY_ARGS                                                                            \
  const global float *q, long q_offset, long q_stride, const global uchar *w, ulong w_offset, \
      ulong scale_offset, const global float *cos_sin, long cos_sin_offset, global float *y,  \
      long y_offset, int T, int H, int R, int d, int nope, int head_rows

// y[t, R:] of this work-group's rows and head; q and y point at row t0 and the head.
INLINE void rope_rest(const global float* q, long q_stride, const global float* cos_sin,
                      global float* y, long y_stride, int rows, int R, int d, int nope, int items) {
  for (int i = (int)get_local_id(0); i < rows * (d / 2); i += items) {
    const int t = i / (d / 2);
    const int pair = i % (d / 2);
    const float a = q[t * q_stride + nope + 2 * pair];
    const float b = q[t * q_stride + nope + 2 * pair + 1];
    const float c = cos_sin[t * d + 2 * pair];
    const float s = cos_sin[t * d + 2 * pair + 1];
    y[t * y_stride + R + 2 * pair] = a * c - b * s;
    y[t * y_stride + R + 2 * pair + 1] = a * s + b * c;
  }
}

// sum[t] = the part of sum_n x[t, n] w[base + n, c .. c + 8) of slot `slot`.
INLINE void slot_columns(float8* sum, matrix_t w, long base, int N, int slot, int c,
                         const global float* x, const long* row_at, const int rows) {
  const int fit = chunks_fit(w);
#pragma unroll
  for (int t = 0; t < rows; ++t) sum[t] = (float8)(0.0f);
  for (int n0 = slot; n0 < N; n0 += COLUMN_LOADS * QUERY_SLOTS) {
    float8 w8[COLUMN_LOADS];
#pragma unroll
    for (int i = 0; i < COLUMN_LOADS; ++i) {
      w8[i] = tile_weights(w, base + n0 + i * QUERY_SLOTS, base + N, c, fit);
    }
#pragma unroll
    for (int i = 0; i < COLUMN_LOADS; ++i) {
      const int n = min(n0 + i * QUERY_SLOTS, N - 1);  // beyond it the weights are zeros
#pragma unroll
      for (int t = 0; t < rows; ++t) sum[t] = fma(w8[i], (float8)(x[row_at[t] + n]), sum[t]);
    }
  }
}

// Where a launch also appends: rows of z, as in mla_append.
typedef struct {
  long z_offset, z_stride, norm_offset, slots_offset;
  int on, kv_type;
  float eps;
  int unused;
} append_t;

#define APPEND_ARGS                                                                          \
  const global float *z, const global float *norm_w, global uchar *kv, const global int *slots, \
      append_t append

// The keys of this work-group's share of its rows; cos_sin is at row t0.
INLINE void append_rows(const global float* z, const global float* norm_w,
                        const global float* cos_sin, global uchar* kv, const global int* slots,
                        append_t a, int t0, int rows, int H, int R, int d, local float* room) {
  for (int t = (int)get_group_id(2); t < rows; t += H) {
    append_token(z + a.z_offset + (t0 + t) * a.z_stride, norm_w + a.norm_offset,
                 cos_sin + (long)t * d, kv, a.kv_type, slots[a.slots_offset + t0 + t], R, d, a.eps,
                 room, HEAD_ITEMS);
  }
}

kernel __attribute__((reqd_work_group_size(HEAD_ITEMS, 1, 1))) void mla_query_transposed(
    QUERY_ARGS, int per_group, APPEND_ARGS) {
  local float partial[HEAD_ITEMS * 8 + APPEND_ROOM(0)];
  const int lid = (int)get_local_id(0);
  const int h = (int)get_group_id(2);
  const int t0 = (int)get_group_id(1) * HEAD_ROWS;
  const int rows = min(HEAD_ROWS, T - t0);
  const int c0 = (int)get_group_id(0) * QUERY_COLUMNS;
  const long y_stride = (long)H * (R + d);
  q += q_offset + t0 * q_stride + h * (nope + d);
  y += y_offset + t0 * y_stride + h * (R + d);
  cos_sin += cos_sin_offset + (long)t0 * d;
  if (c0 >= R) {
    if (append.on && get_group_id(0) == get_num_groups(0) - 1) {
      append_rows(z, norm_w, cos_sin, kv, slots, append, t0, rows, H, R, d, partial);
    } else {
      rope_rest(q, q_stride, cos_sin, y, y_stride, rows, R, d, nope, HEAD_ITEMS);
    }
    return;
  }
  const long base = (long)h * head_rows;
  const matrix_t m = matrix_at(w, w_offset, scale_offset, (long)H * head_rows, R);
  const int c = min(c0 + lid % (QUERY_COLUMNS / 8) * 8, (R - 1) / 8 * 8);
  const int slot = lid / (QUERY_COLUMNS / 8);
  long row_at[HEAD_ROWS];
  float8 sum[HEAD_ROWS];
#pragma unroll
  for (int t = 0; t < HEAD_ROWS; ++t) row_at[t] = min(t, rows - 1) * q_stride;
  if (rows == 1) {
    slot_columns(sum, m, base, nope, slot, c, q, row_at, 1);
  } else {
    slot_columns(sum, m, base, nope, slot, c, q, row_at, HEAD_ROWS);
  }
#pragma unroll
  for (int t = 0; t < HEAD_ROWS; ++t) {
    if (t < rows) {  // the same for the whole work-group
      vstore8(sum[t], lid, partial);
      HEAD_BARRIER();
      for (int i = lid; i < QUERY_COLUMNS; i += HEAD_ITEMS) {
        float total = partial[i];
        for (int s = 1; s < QUERY_SLOTS; ++s) total += partial[s * QUERY_COLUMNS + i];
        if (c0 + i < R) y[t * y_stride + c0 + i] = total;
      }
      HEAD_BARRIER();
    }
  }
}

#define PARTIAL_FLOATS (TEAMS * HEAD_WROWS * HEAD_ROWS * (TEAM + 1))

kernel __attribute__((reqd_work_group_size(HEAD_ITEMS, 1, 1))) void mla_query_straight(
    QUERY_ARGS, int per_group, APPEND_ARGS) {
  local float x[HEAD_ROWS * MAX_R] __attribute__((aligned(16)));
  local float partial[PARTIAL_FLOATS];
  const int h = (int)get_group_id(2);
  const int t0 = (int)get_group_id(1) * HEAD_ROWS;
  const int rows = min(HEAD_ROWS, T - t0);
  const int first = (int)get_group_id(0) * per_group;
  const long y_stride = (long)H * (R + d);
  q += q_offset + t0 * q_stride + h * (nope + d);
  y += y_offset + t0 * y_stride + h * (R + d);
  cos_sin += cos_sin_offset + (long)t0 * d;
  if (first >= R) {
    if (append.on && get_group_id(0) == get_num_groups(0) - 1) {
      append_rows(z, norm_w, cos_sin, kv, slots, append, t0, rows, H, R, d, x);
    } else {
      rope_rest(q, q_stride, cos_sin, y, y_stride, rows, R, d, nope, HEAD_ITEMS);
    }
    return;
  }
  for (int i = (int)get_local_id(0); i < HEAD_ROWS * MAX_R; i += HEAD_ITEMS) {
    const int n = i % MAX_R;
    x[i] = i / MAX_R < rows && n < nope ? q[i / MAX_R * q_stride + n] : 0.0f;
  }
  HEAD_BARRIER();
  const matrix_t m = matrix_at(w, w_offset, scale_offset, (long)H * R, nope);
  straight(y, y_stride, m, (long)h * R, first, min(first + per_group, R), x, rows, partial);
}

#if NV_COMPUTE < 70
// The largest, or the sum, of the items' values.
INLINE float group_largest(local float* scratch, float value) {
  const int lid = (int)get_local_id(0);
  scratch[lid] = value;
  HEAD_BARRIER();
  for (int half_group = HEAD_ITEMS / 2; half_group > 0; half_group /= 2) {
    if (lid < half_group) scratch[lid] = fmax(scratch[lid], scratch[lid + half_group]);
    HEAD_BARRIER();
  }
  const float largest = scratch[0];
  HEAD_BARRIER();
  return largest;
}
INLINE float group_sum(local float* scratch, float value) {
  const int lid = (int)get_local_id(0);
  scratch[lid] = value;
  HEAD_BARRIER();
  for (int half_group = HEAD_ITEMS / 2; half_group > 0; half_group /= 2) {
    if (lid < half_group) scratch[lid] += scratch[lid + half_group];
    HEAD_BARRIER();
  }
  const float sum = scratch[0];
  HEAD_BARRIER();
  return sum;
}
#endif

#if NV_COMPUTE >= 70
// weight[s] = exp(lse[s] - largest) and their sum: every warp makes all of them for itself.
INLINE float split_sum(local float* weight, local float* scratch, const global float* lse,
                       int splits) {
  const int lane = (int)get_local_id(0) % 32;
  float largest = -INFINITY;
  for (int s = lane; s < splits; s += 32) largest = fmax(largest, lse[s]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = fmax(largest, from_lane(largest, step));
  float sum = 0.0f;
  for (int s = lane; s < splits; s += 32) {
    const float w = exp(lse[s] - largest);
    weight[s] = w;
    sum += w;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += from_lane(sum, step);
  HEAD_BARRIER();
  return sum;
}
#else
INLINE float split_sum(local float* weight, local float* scratch, const global float* lse,
                       int splits) {
  const int lid = (int)get_local_id(0);
  float largest = -INFINITY;
  for (int s = lid; s < splits; s += HEAD_ITEMS) largest = fmax(largest, lse[s]);
  largest = group_largest(scratch, largest);
  float sum = 0.0f;
  for (int s = lid; s < splits; s += HEAD_ITEMS) {
    weight[s] = exp(lse[s] - largest);
    sum += weight[s];
  }
  return group_sum(scratch, sum);
}
#endif

// u[:R] of one row and head; weight: one float a split, in local memory. One split has weight 1.
INLINE void merge_parts(local float* u, local float* weight, local float* scratch,
                        const global float* parts, const global float* lse, int splits, int R) {
  if (splits == 1) {
    for (int r = (int)get_local_id(0); r < R; r += HEAD_ITEMS) u[r] = parts[r];
    HEAD_BARRIER();
    return;
  }
  const float sum = split_sum(weight, scratch, lse, splits);
  for (int r = (int)get_local_id(0); r < R; r += HEAD_ITEMS) {
    float total = 0.0f;
#if TEAM > 1  // a CPU's compiler refuses, and PoCL passes its warning on to the user
#pragma unroll 4
#endif
    for (int s = 0; s < splits; ++s) total = fma(weight[s], parts[(long)s * R + r], total);
    u[r] = total / sum;
  }
  HEAD_BARRIER();
}

#define OUTPUT_ARGS                                                                             \
  const global float *parts, long parts_offset, const global float *lse, long lse_offset,       \
      const global uchar *w, ulong w_offset, ulong scale_offset, global float *out,             \
      long out_offset, long out_stride, int T, int H, int R, int dv, int splits, int head_rows, \
      int row0

kernel __attribute__((reqd_work_group_size(HEAD_ITEMS, 1, 1))) void mla_output(OUTPUT_ARGS,
                                                                               int per_group) {
  local float u[HEAD_ROWS * MAX_R] __attribute__((aligned(16)));
  local float partial[PARTIAL_FLOATS];
  local float weight[MAX_SPLITS];
  const int h = (int)get_group_id(2);
  const int t0 = (int)get_group_id(1) * HEAD_ROWS;
  const int rows = min(HEAD_ROWS, T - t0);
  const int first = (int)get_group_id(0) * per_group;
  const matrix_t m = matrix_at(w, w_offset, scale_offset, (long)H * head_rows, R);
  const long first_row = (long)h * head_rows + row0;
  rows_ahead(m, first_row + first + (int)get_local_id(0) / TEAM * HEAD_WROWS, first_row + dv);
  for (int i = (int)get_local_id(0); i < rows * MAX_R; i += HEAD_ITEMS) u[i] = 0.0f;
  HEAD_BARRIER();
  for (int t = 0; t < rows; ++t) {
    const long part = ((long)(t0 + t) * H + h) * splits;
    merge_parts(u + t * MAX_R, weight, partial, parts + parts_offset + part * R,
                lse + lse_offset + part, splits, R);
  }
  straight(out + out_offset + t0 * out_stride + (long)h * dv, out_stride, m,
           first_row, first, min(first + per_group, dv), u, rows, partial);
}
