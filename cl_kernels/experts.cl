// Routed experts of a MoE layer (DeepSeek-V3 section 2.1.2), grouped: the third dimension of the
// grid is the job, one expert with its pairs p (a row of x and its weight), which are consecutive.
//   act[p, f]      = pair_weight[p] * silu(gate_e . x[pair_row[p]])[f] * (up_e . x[pair_row[p]])[f]
//   pair_out[p, d] = (down_e . act[p])[d]
//   gate, up : WTYPE [F, D]     down : WTYPE [D, F]     x : f32     act : f32 [P, F]
//   jobs : as ExpertJob of args.h, seven ulongs each, the last of them first_pair and n_pairs
//
//   experts_{gate_up,down}_few[_1][_narrow]         N = F for gate_up, D for down
//       global (ceil(N / (TEAMS * wrows)) * TEAM * TEAMS, ceil(max_pairs / cap), n_jobs)
//       local  (TEAM * TEAMS, 1, 1)
//   experts_{gate_up,down}_many  global (ceil(N / BN) * 256, ceil(max_pairs / BM), n_jobs)
//                                local  (256, 1, 1)
// Work-groups beyond a job's own pairs leave at once, whole.
typedef struct {
  ulong gate, gate_scale;
  ulong up, up_scale;
  ulong down, down_scale;
  int first_pair, n_pairs;
} job_t;

#define GATE_UP_ARGS                                                                          \
  const global uchar *weights, const global job_t *jobs, long jobs_offset, long D, long F,    \
      const global int *pair_row, long pair_row_offset, const global float *pair_weight,      \
      long pair_weight_offset, const global float *x, long x_offset, long x_stride,           \
      int x_aligned, global float *act, long act_offset

#define DOWN_ARGS                                                                             \
  const global uchar *weights, const global job_t *jobs, long jobs_offset, long D, long F,    \
      const global float *act, long act_offset, int act_aligned, global float *pair_out,      \
      long pair_out_offset

#define GATE_UP_FEW(NAME, CAP, WIDE)                                                            \
  kernel __attribute__((reqd_work_group_size(TEAM* TEAMS, 1, 1))) void NAME(GATE_UP_ARGS) {     \
    local float partial[GROUP_PARTIALS(CAP, WIDE)];                                             \
    local float gate_total[TEAMS * WIDE * CAP];                                                 \
    const job_t job = jobs[jobs_offset + get_group_id(2)];                                      \
    const int lid = (int)get_local_id(0);                                                       \
    const int team = lid / TEAM;                                                                \
    const int p0 = (int)get_group_id(1) * CAP;                                                  \
    const int rows = min(CAP, job.n_pairs - p0);                                                \
    if (rows <= 0) return;                                                                      \
    const long pair0 = (long)job.first_pair + p0;                                               \
    const long n0 = (long)get_group_id(0) * TEAMS * WIDE;                                       \
    const int outputs = TEAMS * WIDE * rows;                                                    \
    long row_at[CAP];                                                                           \
    for (int t = 0; t < CAP; ++t) {                                                             \
      row_at[t] = pair_row[pair_row_offset + pair0 + min(t, rows - 1)] * x_stride;              \
    }                                                                                           \
    local float* mine = partial + team * TEAM_PARTIALS(CAP, WIDE);                              \
    few_rows_any(mine, matrix_at(weights, job.gate, job.gate_scale, F, D), n0 + team * WIDE, F,    \
                 x + x_offset, row_at, x_aligned, rows, CAP, WIDE, lid % TEAM);                 \
    TEAM_BARRIER();                                                                             \
    for (int o = lid; o < outputs; o += TEAM * TEAMS) {                                         \
      const int n = o % (TEAMS * WIDE);                                                         \
      gate_total[o] = team_total(partial, n / WIDE, n % WIDE, o / (TEAMS * WIDE),               \
                                 padded_rows(rows), CAP, WIDE);                                 \
    }                                                                                           \
    TEAM_BARRIER();                                                                             \
    few_rows_any(mine, matrix_at(weights, job.up, job.up_scale, F, D), n0 + team * WIDE, F,        \
                 x + x_offset, row_at, x_aligned, rows, CAP, WIDE, lid % TEAM);                 \
    TEAM_BARRIER();                                                                             \
    for (int o = lid; o < outputs; o += TEAM * TEAMS) {                                         \
      const int n = o % (TEAMS * WIDE);                                                         \
      const long p = pair0 + o / (TEAMS * WIDE);                                                \
      const float up = team_total(partial, n / WIDE, n % WIDE, o / (TEAMS * WIDE),              \
                                  padded_rows(rows), CAP, WIDE);                                \
      if (n0 + n < F) {                                                                         \
        act[act_offset + p * F + n0 + n] =                                                      \
            pair_weight[pair_weight_offset + p] * (silu(gate_total[o]) * up);                   \
      }                                                                                         \
    }                                                                                           \
  }

#define DOWN_FEW(NAME, CAP, WIDE)                                                               \
  kernel __attribute__((reqd_work_group_size(TEAM* TEAMS, 1, 1))) void NAME(DOWN_ARGS) {        \
    local float partial[GROUP_PARTIALS(CAP, WIDE)];                                             \
    const job_t job = jobs[jobs_offset + get_group_id(2)];                                      \
    const int lid = (int)get_local_id(0);                                                       \
    const int team = lid / TEAM;                                                                \
    const int p0 = (int)get_group_id(1) * CAP;                                                  \
    const int rows = min(CAP, job.n_pairs - p0);                                                \
    if (rows <= 0) return;                                                                      \
    const long pair0 = (long)job.first_pair + p0;                                               \
    const long n0 = (long)get_group_id(0) * TEAMS * WIDE;                                       \
    long row_at[CAP];                                                                           \
    for (int t = 0; t < CAP; ++t) row_at[t] = (pair0 + min(t, rows - 1)) * F;                   \
    few_rows_any(partial + team * TEAM_PARTIALS(CAP, WIDE),                                     \
                 matrix_at(weights, job.down, job.down_scale, D, F), n0 + team * WIDE, D,          \
                 act + act_offset, row_at, act_aligned, rows, CAP, WIDE, lid % TEAM);           \
    TEAM_BARRIER();                                                                             \
    for (int o = lid; o < TEAMS * WIDE * rows; o += TEAM * TEAMS) {                             \
      const int n = o % (TEAMS * WIDE);                                                         \
      const int t = o / (TEAMS * WIDE);                                                         \
      const float total =                                                                       \
          team_total(partial, n / WIDE, n % WIDE, t, padded_rows(rows), CAP, WIDE);             \
      if (n0 + n < D) pair_out[pair_out_offset + (pair0 + t) * D + n0 + n] = total;             \
    }                                                                                           \
  }

GATE_UP_FEW(experts_gate_up_few_1, 1, WROWS)
GATE_UP_FEW(experts_gate_up_few_1_narrow, 1, 1)
GATE_UP_FEW(experts_gate_up_few, MAX_ROWS, WROWS)
GATE_UP_FEW(experts_gate_up_few_narrow, MAX_ROWS, 1)
DOWN_FEW(experts_down_few_1, 1, WROWS)
DOWN_FEW(experts_down_few_1_narrow, 1, 1)
DOWN_FEW(experts_down_few, MAX_ROWS, WROWS)
DOWN_FEW(experts_down_few_narrow, MAX_ROWS, 1)

kernel __attribute__((reqd_work_group_size(TILE_GROUP, 1, 1))) void experts_gate_up_many(
    GATE_UP_ARGS) {
  local float tiles[TILE_FLOATS] __attribute__((aligned(16)));
  local long row_at[BM];
  const job_t job = jobs[jobs_offset + get_group_id(2)];
  const int lid = (int)get_local_id(0);
  const int p0 = (int)get_group_id(1) * BM;
  const long n0 = (long)get_group_id(0) * BN;
  if (p0 >= job.n_pairs) return;
  const long pair0 = (long)job.first_pair + p0;
  const int rows = job.n_pairs - p0;
  if (lid < BM) {
    row_at[lid] = lid < rows ? pair_row[pair_row_offset + pair0 + lid] * x_stride : -1;
  }
  barrier(CLK_LOCAL_MEM_FENCE);

  float gate[TM * TN];
  float up[TM * TN];
  many_rows(gate, tiles, matrix_at(weights, job.gate, job.gate_scale, F, D), n0, F, x + x_offset,
            row_at, x_aligned);
  many_rows(up, tiles, matrix_at(weights, job.up, job.up_scale, F, D), n0, F, x + x_offset, row_at,
            x_aligned);
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int m = tile_row(i);
    const float weight = m < rows ? pair_weight[pair_weight_offset + pair0 + m] : 0.0f;
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const long n = n0 + tile_column(j);
      if (m < rows && n < F) {
        act[act_offset + (pair0 + m) * F + n] =
            weight * (silu(gate[i * TN + j]) * up[i * TN + j]);
      }
    }
  }
}

kernel __attribute__((reqd_work_group_size(TILE_GROUP, 1, 1))) void experts_down_many(DOWN_ARGS) {
  local float tiles[TILE_FLOATS] __attribute__((aligned(16)));
  local long row_at[BM];
  const job_t job = jobs[jobs_offset + get_group_id(2)];
  const int lid = (int)get_local_id(0);
  const int p0 = (int)get_group_id(1) * BM;
  const long n0 = (long)get_group_id(0) * BN;
  if (p0 >= job.n_pairs) return;
  const long pair0 = (long)job.first_pair + p0;
  const int rows = job.n_pairs - p0;
  if (lid < BM) row_at[lid] = lid < rows ? (pair0 + lid) * F : -1;
  barrier(CLK_LOCAL_MEM_FENCE);

  float sum[TM * TN];
  many_rows(sum, tiles, matrix_at(weights, job.down, job.down_scale, D, F), n0, D, act + act_offset,
            row_at, act_aligned);
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int m = tile_row(i);
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const long n = n0 + tile_column(j);
      if (m < rows && n < D) pair_out[pair_out_offset + (pair0 + m) * D + n] = sum[i * TN + j];
    }
  }
}
