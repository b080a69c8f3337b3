// Products of few rows of x, bound by the bandwidth of weights: a team of TEAM work-items sums
// WROWS weight rows, which may lie in two matrices, against ROWS rows of x, and reads each weight
// once.
//
//   sum_t sum[WROWS * rows]     zero_sums, then add_rows once or more (K values each), then
//   finish_rows                 -> totals in local memory; team_total reads them
//
// On a GPU x lies in local memory, in the order in which units want it (units.cl), STAGE floats at
// a time; where all of it fits, it stays for the next weight rows. `ksplit` neighbouring teams
// share weight rows and take the steps of TEAM units in turn. On a CPU a team is one work-item,
// which sums in vectors of 8 and reads x where it is.
//
// A row's sums do not depend on the rows beside it, but on a GPU the order of its terms depends on
// ksplit. `rows` and WROWS are constants at each call, so that the sums stay in registers.
typedef struct {
  const global float* x;
  int aligned;                 // 16-byte loads fit every row
  const global float* norm_w;  // null: no norm
  global float* norm_out;      // null: another work-group writes x'
  long norm_out_stride;
  int norm_rows;  // rows beyond are repetitions of the last
} input_t;

INLINE input_t plain_input(const global float* x, int aligned) {
  input_t in;
  in.x = x;
  in.aligned = aligned;
  in.norm_w = 0;
  in.norm_out = 0;
  in.norm_out_stride = 0;
  in.norm_rows = 0;
  return in;
}

#if TEAM == 1
typedef float8 sum_t;
#define SUM_ZERO ((float8)(0.0f))
#define POOL 1
#define FACTORS(rows) 1
#define SCRATCH(rows) 1
#else
typedef float sum_t;
#define SUM_ZERO 0.0f
#define STAGE 8192
#define POOL (STAGE / 4)
#define FACTORS(rows) (rows)
#if NV_COMPUTE >= 70
#define SCRATCH(rows) TEAMS
#else
#define SCRATCH(rows) (TEAMS * (rows) * (TEAM + 1))
#endif
#endif
// Two sets, so that one may be read while the next is written.
#define TOTALS(rows) (2 * TEAMS * WROWS * (rows))

INLINE void zero_sums(sum_t* sum, const int rows) {
#pragma unroll
  for (int i = 0; i < WROWS * rows; ++i) sum[i] = SUM_ZERO;
}

// The total of weight row r of the teams that share it, and of row t of x.
INLINE float team_total(const local float* totals, int row_team, int r, int t, int ksplit,
                        const int rows) {
  const local float* mine = totals + row_team * ksplit * (WROWS * rows) + r * rows + t;
  float total = mine[0];
  for (int s = 1; s < ksplit; ++s) total += mine[s * (WROWS * rows)];
  return total;
}

#if TEAM == 1
INLINE void add_rows(sum_t* sum, const matrix_t* m, const long* n, input_t in, const long* row_at,
                     local float4* pool, const local float* factor, int staged, int ksplit,
                     const int rows) {
  const long K = m[0].K;
  const long chunked = chunks_fit(m[0]) ? K / 8 * 8 : 0;
  for (long k = 0; k < chunked; k += 8) {
    float8 w8[WROWS];
#pragma unroll
    for (int r = 0; r < WROWS; ++r) w8[r] = weights8(m[r], n[r], k);
#pragma unroll
    for (int t = 0; t < rows; ++t) {
      const float8 x8 = load8(in.x + row_at[t] + k, in.aligned);
#pragma unroll
      for (int r = 0; r < WROWS; ++r) sum[r * rows + t] = fma(w8[r], x8, sum[r * rows + t]);
    }
  }
#if SCALAR_FORMAT
  for (long k = chunked; k < K; ++k) {
#pragma unroll
    for (int r = 0; r < WROWS; ++r) {
      const float w = weight_at(m[r], n[r], k);
#pragma unroll
      for (int t = 0; t < rows; ++t) {
        sum[r * rows + t].s0 = fma(w, in.x[row_at[t] + k], sum[r * rows + t].s0);
      }
    }
  }
#endif
}

INLINE int stays_staged(matrix_t m, const int rows) { return 0; }

INLINE void finish_rows(local float* totals, local float* scratch, const sum_t* sum,
                        const int rows) {
#pragma unroll
  for (int i = 0; i < WROWS * rows; ++i) totals[i] = sum8(sum[i]);
}

INLINE void norm_factors(local float* factor, local float* partial, input_t in, const long* row_at,
                         long K, float eps, const int rows) {}  // never asked for: see LaunchLinear

#else  // TEAM > 1
INLINE float dot4(float4 a, float4 b, float sum) {
  sum = fma(a.x, b.x, sum);
  sum = fma(a.y, b.y, sum);
  sum = fma(a.z, b.z, sum);
  return fma(a.w, b.w, sum);
}

// The sum over a team, in every work-item of it.
#if NV_COMPUTE >= 70
INLINE float team_sum(float v) {
#pragma unroll
  for (int step = TEAM / 2; step > 0; step /= 2) v += from_lane(v, step);
  return v;
}
#endif

// factor[t] = 1 / sqrt(mean(x[t]^2) + eps), by the whole work-group.
INLINE void norm_factors(local float* factor, local float* partial, input_t in, const long* row_at,
                         long K, float eps, const int rows) {
  const int lid = (int)get_local_id(0);
  for (int t = 0; t < rows; ++t) {
    const global float* x = in.x + row_at[t];
    float squares = 0.0f;
    for (long k = (long)lid * 4; k + 4 <= K; k += TEAM * TEAMS * 4) {
      const float4 v = in.aligned ? *(const global float4*)(x + k) : vload4(0, x + k);
      squares = dot4(v, v, squares);
    }
    if (lid < K % 4) squares = fma(x[K - 1 - lid], x[K - 1 - lid], squares);
    partial[lid] = squares;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lid < TEAM) {
      for (int i = lid + TEAM; i < TEAM * TEAMS; i += TEAM) squares += partial[i];
      partial[lid] = squares;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lid == 0) {
      for (int i = 1; i < TEAM; ++i) squares += partial[i];
      factor[t] = 1.0f / sqrt(squares / (float)K + eps);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
}

INLINE float4 input4(input_t in, const long* row_at, int t, long k, float factor) {
  const global float* p = in.x + row_at[t] + k;
  float4 v = in.aligned ? *(const global float4*)p : vload4(0, p);
  if (in.norm_w) {
    v = vload4(0, in.norm_w + k) * (v * factor);
    if (in.norm_out && t < in.norm_rows) vstore4(v, 0, in.norm_out + t * in.norm_out_stride + k);
  }
  return v;
}

// x[k0, k0 + count) to the pool, each vector where its unit looks for it. count is whole units.
INLINE void stage_units(local float4* pool, input_t in, const long* row_at,
                        const local float* factor, long k0, int count, int steps, const int rows) {
  for (int t = 0; t < rows; ++t) {
    const float f = in.norm_w ? factor[t] : 1.0f;
    for (int k = (int)get_local_id(0) * 4; k < count; k += TEAM * TEAMS * 4) {
      const int2 place = unit_place(k);
      pool[((t * steps + place.x / TEAM) * VECTORS + place.y) * TEAM + place.x % TEAM] =
          input4(in, row_at, t, k0 + k, f) * X_SCALE;
    }
  }
}

// One unit of WROWS weight rows times the x of every row; xs is the first vector of this lane.
INLINE void add_unit(float* sum, const raw_t* raw, const local float4* xs, int row_stride, int u,
                     const int rows) {
#pragma unroll
  for (int h = 0; h < RUNS; ++h) {
    float run[WROWS * 8];
    float x_sum[8];
#pragma unroll
    for (int i = 0; i < WROWS * rows; ++i) run[i] = HAS_SCALE ? 0.0f : sum[i];
#pragma unroll
    for (int t = 0; t < rows; ++t) x_sum[t] = 0.0f;
#pragma unroll
    for (int j = h * (VECTORS / RUNS); j < (h + 1) * (VECTORS / RUNS); ++j) {
      float4 w[WROWS];
#pragma unroll
      for (int r = 0; r < WROWS; ++r) w[r] = codes4(raw + r, u, j);
#pragma unroll
      for (int t = 0; t < rows; ++t) {
        const float4 x = xs[t * row_stride + j * TEAM];
#if K_QUANT
        x_sum[t] = dot4(x, X_UNSCALE, x_sum[t]);
#endif
#pragma unroll
        for (int r = 0; r < WROWS; ++r) run[r * rows + t] = dot4(w[r], x, run[r * rows + t]);
      }
    }
#pragma unroll
    for (int r = 0; r < WROWS; ++r) {
      const float2 f = run_scale(raw + r, u, h);
#pragma unroll
      for (int t = 0; t < rows; ++t) {
        const int i = r * rows + t;
#if WTYPE == WTYPE_MXFP4
        sum[i] = fma(f.x, run[i] * BACK, sum[i]);
#elif K_QUANT
        sum[i] = fma(f.x, run[i], fma(-f.y, x_sum[t], sum[i]));
#elif HAS_SCALE
        sum[i] = fma(f.x, run[i], sum[i]);
#else
        sum[i] = run[i];
#endif
      }
    }
  }
}

// Where a unit's codes and scales take few registers, those of the next step are loaded before this
// one is multiplied: fewer teams fit a compute unit, but each always has loads in flight.
#define LOADS_AHEAD (UNIT <= 16)

INLINE void load_units(raw_t* raw, const row_t* row, int u) {
#pragma unroll
  for (int r = 0; r < WROWS; ++r) raw[r] = load_unit(row[r], u);
}

// The steps of this team in [step0, step0 + steps), for which the pool holds x.
INLINE void add_steps(float* sum, const row_t* row, const local float4* pool, int step0, int steps,
                      int units, int kteam, int ksplit, int lane, const int rows) {
  const int first = (kteam + ksplit - step0 % ksplit) % ksplit;
  const int end = min(units, (step0 + steps) * TEAM);
  const int stride = steps * VECTORS * TEAM;
  const local float4* xs = pool + first * VECTORS * TEAM + lane;
  raw_t raw[WROWS];
  int u = (step0 + first) * TEAM + lane;
  if (LOADS_AHEAD && u < end) load_units(raw, row, u);
  for (; u < end; u += ksplit * TEAM) {
    if (LOADS_AHEAD) {
      raw_t now[WROWS];
#pragma unroll
      for (int r = 0; r < WROWS; ++r) now[r] = raw[r];
      if (u + ksplit * TEAM < end) load_units(raw, row, u + ksplit * TEAM);
      add_unit(sum, now, xs, stride, u, rows);
    } else {
      load_units(raw, row, u);
      add_unit(sum, raw, xs, stride, u, rows);
    }
    xs += ksplit * VECTORS * TEAM;
  }
}

#if SCALAR_FORMAT
// The values from k0 on that fill no unit, or all where rows do not begin at multiples of 16 bytes.
INLINE void add_tail(float* sum, const matrix_t* m, const long* n, local float* pool, input_t in,
                     const long* row_at, const local float* factor, long k0, int kteam, int ksplit,
                     int lane, const int rows) {
  const long K = m[0].K;
  const int most = STAGE / rows;
  for (; k0 < K; k0 += most) {
    const int count = (int)min((long)most, K - k0);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int t = 0; t < rows; ++t) {
      for (int k = (int)get_local_id(0); k < count; k += TEAM * TEAMS) {
        float v = in.x[row_at[t] + k0 + k];
        if (in.norm_w) {
          v = in.norm_w[k0 + k] * (v * factor[t]);
          if (in.norm_out && t < in.norm_rows) in.norm_out[t * in.norm_out_stride + k0 + k] = v;
        }
        pool[t * most + k] = v;
      }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int k = kteam * TEAM + lane; k < count; k += ksplit * TEAM) {
#pragma unroll
      for (int r = 0; r < WROWS; ++r) {
        const float w = weight_at(m[r], n[r], k0 + k);
#pragma unroll
        for (int t = 0; t < rows; ++t) {
          sum[r * rows + t] = fma(w, pool[t * most + k], sum[r * rows + t]);
        }
      }
    }
  }
}
#endif

// Steps of TEAM units whose x fits into the pool for `rows` rows.
#define STAGE_STEPS(rows) (STAGE / ((rows)*UNIT * TEAM))

// sum[r, t] += this work-item's part of sum_k x[row_at[t], k] w_r[n[r], k]. `staged` (the same for
// the whole work-group): the pool holds this x from an earlier call, and K has no tail.
INLINE void add_rows(sum_t* sum, const matrix_t* m, const long* n, input_t in, const long* row_at,
                     local float4* pool, const local float* factor, int staged, int ksplit,
                     const int rows) {
  const int lane = (int)get_local_id(0) % TEAM;
  const int kteam = (int)get_local_id(0) / TEAM % ksplit;
  row_t row[WROWS];
#pragma unroll
  for (int r = 0; r < WROWS; ++r) row[r] = row_of(m[r], n[r]);
  const int units = chunks_fit(m[0]) ? (int)(m[0].K / UNIT) : 0;
  const int all_steps = (units + TEAM - 1) / TEAM;
  for (int step0 = 0; step0 < all_steps; step0 += STAGE_STEPS(rows)) {
    const int steps = min(STAGE_STEPS(rows), all_steps - step0);
    if (!staged) {
      const int count = (min((step0 + steps) * TEAM, units) - step0 * TEAM) * UNIT;
      barrier(CLK_LOCAL_MEM_FENCE);  // the pool is no longer read
      stage_units(pool, in, row_at, factor, (long)step0 * TEAM * UNIT, count, steps, rows);
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    add_steps(sum, row, pool, step0, steps, units, kteam, ksplit, lane, rows);
  }
#if SCALAR_FORMAT
  if ((long)units * UNIT < m[0].K) {
    add_tail(sum, m, n, (local float*)pool, in, row_at, factor, (long)units * UNIT, kteam, ksplit,
             lane, rows);
  }
#endif
}

// True where the x of `rows` rows stays in the pool after add_rows.
INLINE int stays_staged(matrix_t m, const int rows) {
  const long units = chunks_fit(m) ? m.K / UNIT : 0;
  return units * UNIT == m.K && units <= STAGE_STEPS(rows) * TEAM;
}

INLINE void finish_rows(local float* totals, local float* scratch, const sum_t* sum,
                        const int rows) {
  const int lid = (int)get_local_id(0);
  const int team = lid / TEAM;
  const int lane = lid % TEAM;
  local float* mine = totals + team * (WROWS * rows);
#if NV_COMPUTE >= 70
#pragma unroll
  for (int i = 0; i < WROWS * rows; ++i) {
    const float total = team_sum(sum[i]);
    if (lane == 0) mine[i] = total;
  }
#else
  local float* part = scratch + team * rows * (TEAM + 1);
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
#pragma unroll
    for (int t = 0; t < rows; ++t) part[t * (TEAM + 1) + lane] = sum[r * rows + t];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane < rows) {
      float total = 0.0f;
      for (int i = 0; i < TEAM; ++i) total += part[lane * (TEAM + 1) + i];
      mine[r * rows + lane] = total;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
#endif
  barrier(CLK_LOCAL_MEM_FENCE);
}
#endif
