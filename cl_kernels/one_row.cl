// Products of one row of x on an NVIDIA GPU: what few_rows.cl does, without work-groups that wait
// for themselves. A team is a warp, which sums WROWS weight rows at a time by shfl.sync; x lies in
// local memory once for all weight rows of a work-group; and a warp always has its next AHEAD_STEPS
// loads of codes under way, beyond the end of its weight rows into the next ones, and before x is
// there.
//
//   linear_one          as linear_few_1, of one head                    groups: any number
//   experts_gate_up_one as experts_gate_up_1                            groups: any number
//   experts_down_one    as experts_down_sum                             groups: ceil(D / rows)
//   all: local (TEAM * TEAMS, 1, 1); K a multiple of UNIT (and of 256 for blocks of 256), rows of x
//   and codes on 16 bytes; linear_one and experts_gate_up_one: all of x fits into the pool;
//   experts: at most ONE_TILES tiles, all of row 0. With ksplit > 1 a work-group takes one set of
//   rows for each ksplit warps, and there are as many groups as that needs.
// The norm's factor multiplies the sums, so that staging x need not wait for it.
#if NV_COMPUTE >= 70

// Loads under way. More of them, in fewer registers (-cl-nv-maxrregcount, no reqd_work_group_size),
// were no faster on an H100.
#if UNIT == 8
#define AHEAD_STEPS 4
#elif WTYPE == WTYPE_Q5_K || WTYPE == WTYPE_Q6_K
#define AHEAD_STEPS 1  // more do not fit into 128 registers
#else
#define AHEAD_STEPS 2
#endif
#define ONE_TILES 32
// A step of x in the pool, in vectors of four.
#define STEP_VECTORS (VECTORS * TEAM)

// A warp's weight rows of `units` units, of which it takes the steps kteam, kteam + ksplit, ...
typedef struct {
  row_t row[WROWS];
  int units;
} rows_t;

typedef struct {
  int lane, kteam, ksplit;
} member_t;

INLINE int unit_of(member_t m, int step) { return (step * m.ksplit + m.kteam) * TEAM + m.lane; }

// Of a warp, in whole rounds of AHEAD_STEPS, at least one.
INLINE int steps_of(member_t m, int units) {
  const int all = (units + TEAM * m.ksplit - 1) / (TEAM * m.ksplit);
  return max(all + AHEAD_STEPS - 1, AHEAD_STEPS) / AHEAD_STEPS * AHEAD_STEPS;
}

INLINE void load_step(raw_t* raw, const rows_t* rows, int u) {
  if (u >= rows->units) return;
#pragma unroll
  for (int r = 0; r < WROWS; ++r) raw[r] = load_unit(rows->row[r], u);
}

INLINE void load_first(raw_t* ring, const rows_t* rows, member_t m) {
#pragma unroll
  for (int j = 0; j < AHEAD_STEPS; ++j) load_step(ring + j * WROWS, rows, unit_of(m, j));
}

// add_unit for one row: with the arrays of several the compiler keeps sums in memory.
INLINE void add_unit_of_one(float* sum, const raw_t* raw, const local float4* x, int u) {
#pragma unroll
  for (int h = 0; h < RUNS; ++h) {
    float x_sum = 0.0f;
    float run[WROWS];
#pragma unroll
    for (int r = 0; r < WROWS; ++r) run[r] = HAS_SCALE ? 0.0f : sum[r];
#pragma unroll
    for (int j = h * (VECTORS / RUNS); j < (h + 1) * (VECTORS / RUNS); ++j) {
      const float4 v = x[j * TEAM];
#if K_QUANT
      x_sum = dot4(v, X_UNSCALE, x_sum);
#endif
#pragma unroll
      for (int r = 0; r < WROWS; ++r) run[r] = dot4(codes4(raw + r, u, j), v, run[r]);
    }
#pragma unroll
    for (int r = 0; r < WROWS; ++r) {
#if HAS_SCALE
      const float2 f = run_scale(raw + r, u, h);
#if WTYPE == WTYPE_MXFP4
      sum[r] = fma(f.x, run[r] * BACK, sum[r]);
#elif K_QUANT
      sum[r] = fma(f.x, run[r], fma(-f.y, x_sum, sum[r]));
#else
      sum[r] = fma(f.x, run[r], sum[r]);
#endif
#else
      sum[r] = run[r];
#endif
    }
  }
}

// total[r] += this work-item's part; `ring` holds the first steps of `rows`, and then those of
// `next`.
INLINE void add_row_set(float* total, raw_t* ring, const rows_t* rows, const rows_t* next,
                        const local float4* x, member_t m) {
  float sum[WROWS];
#pragma unroll
  for (int r = 0; r < WROWS; ++r) sum[r] = total[r];
  const int steps = steps_of(m, rows->units);
  for (int step = 0; step < steps; step += AHEAD_STEPS) {
#pragma unroll
    for (int j = 0; j < AHEAD_STEPS; ++j) {
      raw_t now[WROWS];
#pragma unroll
      for (int r = 0; r < WROWS; ++r) now[r] = ring[j * WROWS + r];
      if (step + AHEAD_STEPS < steps) {
        load_step(ring + j * WROWS, rows, unit_of(m, step + j + AHEAD_STEPS));
      } else {
        load_step(ring + j * WROWS, next, unit_of(m, j));
      }
      const int u = unit_of(m, step + j);
      if (u < rows->units) {
        add_unit_of_one(sum, now, x + u / TEAM * STEP_VECTORS + m.lane, u);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < WROWS; ++r) total[r] = sum[r];
}

// Values [0, K) of x, times weights where there are any, to the pool; gives the sum of their
// squares over this work-item's values before that.
INLINE float stage_row(local float4* pool, const global float* x, const global float* norm_w,
                       int K) {
  float squares = 0.0f;
  for (int k = (int)get_local_id(0) * 4; k < K; k += TEAM * TEAMS * 4) {
    float4 v = *(const global float4*)(x + k);
    squares = dot4(v, v, squares);
    if (norm_w) v *= vload4(0, norm_w + k);
    const int2 place = unit_place(k);
    pool[place.x / TEAM * STEP_VECTORS + place.y * TEAM + place.x % TEAM] = v * X_SCALE;
  }
  return squares;
}

// The sums of the warps that share weight rows, in every one of the first of them.
INLINE void join_sums(float* sum, local float* totals, member_t m) {
  const int warp = (int)get_local_id(0) / TEAM;
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
    sum[r] = team_sum(sum[r]);
    if (m.ksplit > 1 && m.lane == 0) totals[warp * WROWS + r] = sum[r];
  }
  if (m.ksplit == 1) return;
  barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
    for (int s = 1; s < m.ksplit; ++s) {
      sum[r] += totals[(warp / m.ksplit * m.ksplit + s) * WROWS + r];
    }
  }
}

INLINE float own_sum(const float* sum, int lane) {
  float v = sum[0];
#pragma unroll
  for (int r = 1; r < WROWS; ++r) v = lane == r ? sum[r] : v;
  return v;
}

// ---- what the kernels share

// Of a work-group, in local memory.
typedef struct {
  local float4* pool;    // [POOL]
  local tile_t* tiles;   // [ONE_TILES]
  local float* squares;  // [TEAMS]
  local float* totals;   // [TEAMS * WROWS]
} one_room_t;

#define ONE_ROOM(name)                      \
  local float4 name##_pool[POOL];           \
  local tile_t name##_tiles[ONE_TILES];     \
  local float name##_squares[TEAMS];        \
  local float name##_totals[TEAMS * WROWS]; \
  const one_room_t name = {name##_pool, name##_tiles, name##_squares, name##_totals}

// ---- linear

// Set `set` of the rows of w, and then of w2; sets beyond are the last one.
INLINE rows_t linear_set(const linear_t* a, matrix_t w, matrix_t w2, int set, int sets1, int sets) {
  rows_t rows;
  rows.units = (int)(a->K / UNIT);
  const int s = min(set, sets - 1);
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
    if (a->swiglu) {
      rows.row[r] = row_of(r % 2 == 0 ? w : w2, min((long)s * (WROWS / 2) + r / 2, a->N - 1));
    } else if (s < sets1) {
      rows.row[r] = row_of(w, min((long)s * WROWS + r, a->N - 1));
    } else {
      rows.row[r] = row_of(w2, min((long)(s - sets1) * WROWS + r, a->N2 - 1));
    }
  }
  return rows;
}

// Where output i of a set goes; null: nowhere.
INLINE global float* linear_output(const linear_t* a, global float* y, global float* y2, int set,
                                   int sets1, int sets, int i) {
  if (set >= sets) return 0;
  if (set >= sets1) {
    const long n = (long)(set - sets1) * WROWS + i;
    return n < a->N2 ? y2 + a->y2_offset + n : 0;
  }
  const long n = (long)set * (a->swiglu ? WROWS / 2 : WROWS) + i;
  return n < a->N ? y + a->y_offset + n : 0;
}

INLINE void write_norm(const linear_t* a, const global float* x, const global float* norm_w,
                       global float* out, float factor) {
  for (int k = (int)get_local_id(0); k < (int)a->K; k += TEAM * TEAMS) {
    out[k] = norm_w[k] * (x[k] * factor);
  }
}

// linear_one as work-group `group` of `groups`.
INLINE void linear_one_part(const global float* x, const global uchar* w_buffer,
                            const global uchar* w2_buffer, global float* y, global float* y2,
                            const global float* norm_w, global float* norm_out, linear_t a,
                            one_room_t room, int group, int groups) {
  local float4* const pool = room.pool;
  local float* const squares = room.squares;
  local float* const totals = room.totals;
  const int warp = (int)get_local_id(0) / TEAM;
  member_t m;
  m.ksplit = (int)a.ksplit;
  m.lane = (int)get_local_id(0) % TEAM;
  m.kteam = warp % m.ksplit;
  const int outputs = a.swiglu ? WROWS / 2 : WROWS;
  const int teams = TEAMS / m.ksplit;
  const int sets1 = (int)((a.N + outputs - 1) / outputs);
  const int sets = sets1 + (a.swiglu ? 0 : (int)((a.N2 + WROWS - 1) / WROWS));
  const int stride = groups * teams;
  const matrix_t w = matrix_at(w_buffer, a.w_offset, a.w_side, a.w_rows, a.K);
  const matrix_t w2 = matrix_at(w2_buffer, a.w2_offset, a.w2_side, a.w2_rows, a.K);
  int set = group * teams + warp / m.ksplit;
  rows_t rows = linear_set(&a, w, w2, set, sets1, sets);
  raw_t ring[AHEAD_STEPS * WROWS];
  load_first(ring, &rows, m);

  x += a.x_offset;
  const float part = team_sum(stage_row(pool, x, a.norm ? norm_w + a.norm_offset : 0, (int)a.K));
  if (m.lane == 0) squares[warp] = part;
  barrier(CLK_LOCAL_MEM_FENCE);
  float factor = 1.0f;
  if (a.norm) {
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < TEAMS; ++i) all += squares[i];
    factor = rsqrt(all / (float)a.K + a.eps);
  }
  do {
    global float* const to =
        m.kteam == 0 && m.lane < outputs ? linear_output(&a, y, y2, set, sets1, sets, m.lane) : 0;
    const float old = to && a.accumulate && set < sets1 ? *to : 0.0f;
    const rows_t next = linear_set(&a, w, w2, set + stride, sets1, sets);
    float sum[WROWS];
#pragma unroll
    for (int r = 0; r < WROWS; ++r) sum[r] = 0.0f;
    add_row_set(sum, ring, &rows, &next, pool, m);
    join_sums(sum, totals, m);
    if (a.swiglu) {
#pragma unroll
      for (int r = 0; r < WROWS / 2; ++r) {
        sum[r] = silu(sum[2 * r] * factor) * (sum[2 * r + 1] * factor);
      }
      if (to) *to = old + own_sum(sum, m.lane);
    } else if (to) {
      *to = fma(own_sum(sum, m.lane), factor, old);
    }
    rows = next;
    set += stride;
  } while (m.ksplit == 1 && set < sets);
  if (a.norm && group == 0) {
    write_norm(&a, x, norm_w + a.norm_offset, norm_out + a.norm_out_offset, factor);
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void linear_one(
    const global float* x, const global uchar* w_buffer, const global uchar* w2_buffer,
    global float* y, global float* y2, const global float* norm_w, global float* norm_out,
    linear_t a) {
  ONE_ROOM(room);
  linear_one_part(x, w_buffer, w2_buffer, y, y2, norm_w, norm_out, a, room, (int)get_group_id(0),
                  (int)get_num_groups(0));
}

#endif  // NV_COMPUTE
