// Experts of a MoE layer (DeepSeek-V3 section 2.1.2), for pairs p of a row of x and an expert that
// group.cl listed, at most tile_rows pairs of one expert a tile:
//   act[p, f] = pair_weight[p] * silu(gate_e . x[pair_row[p]])[f] * (up_e . x[pair_row[p]])[f]
//   out[p, d] = (down_e . act[p])[d]      or      y[t, d] += sum_c (down_e . act[p_c])[d]
//   gate, up : WTYPE [F_e, D]     down : WTYPE [D, F_e]     x : f32     act : f32 [P, F], F >= F_e
// A launch serves two slabs, `weights` and `weights_b` (numbers slab and slab + 1); a work-group
// looks at tile after tile and skips those of others.
//
//   experts_{gate_up,down}_{1,few}  any number of work-groups, each taking every so many-th block
//       of (tile, weight rows)      global (groups * TEAM * TEAMS, parts)   local (TEAM * TEAMS)
//       parts: a tile's pairs, MAX_ROWS at a time; _1 where every tile has one pair, of row 0
//   experts_down_sum                y of few rows t, without pair_out
//       global (ceil(D / per_group) * TEAM * TEAMS, T)              local (TEAM * TEAMS)
//   experts_{gate_up,down}_many     global (ceil(N / BN) * 256, ceil(tile_rows / BM), tiles)
//                                   local  (256, 1, 1)

// ---- few rows

// act of the tile's pairs [part, part + rows) and the expert's rows from `first` on: a team takes
// WROWS / 2 rows of gate and the same of up.
INLINE void gate_up_block(const experts_t* a, tile_t tile, int part, long first,
                          const global int* pair_row, const global float* pair_weight,
                          const global float* x, global float* act, local float4* pool,
                          local float* totals, local float* scratch, int staged, const int rows) {
  const int ksplit = (int)a->ksplit;
  const int per_team = WROWS / 2;
  const int per_group = TEAMS / ksplit * per_team;
  const int row_team = (int)get_local_id(0) / TEAM / ksplit;
  const long pair0 = tile.pair0 + part;
  const int pairs = tile.pairs - part;
  matrix_t m[WROWS];
  long n[WROWS];
  long row_at[8];
  sum_t sum[WROWS * 8];
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
    m[r] = r % 2 == 0 ? gate_of(tile, a->D) : up_of(tile, a->D);
    n[r] = min(first + row_team * per_team + r / 2, (long)tile.e.F - 1);
  }
#pragma unroll
  for (int t = 0; t < rows; ++t) {
    row_at[t] = pair_row[a->pair_row_offset + pair0 + min(t, pairs - 1)] * a->x_stride;
  }
  zero_sums(sum, rows);
  add_rows(sum, m, n, plain_input(x + a->x_offset, (int)a->x_aligned), row_at, pool, scratch,
           staged, ksplit, rows);
  finish_rows(totals, scratch, sum, rows);
  for (int o = (int)get_local_id(0); o < per_group * min(rows, pairs); o += TEAM * TEAMS) {
    const int t = o / per_group;
    const int i = o % per_group;
    const float gate = team_total(totals, i / per_team, i % per_team * 2, t, ksplit, rows);
    const float up = team_total(totals, i / per_team, i % per_team * 2 + 1, t, ksplit, rows);
    if (first + i < tile.e.F) {
      act[a->act_offset + (pair0 + t) * a->F + first + i] =
          pair_weight[a->pair_weight_offset + pair0 + t] * (silu(gate) * up);
    }
  }
}

// out of the tile's pairs [part, part + rows), columns from `first` on.
INLINE void down_block(const experts_t* a, tile_t tile, int part, long first,
                       const global float* act, global float* out, local float4* pool,
                       local float* totals, local float* scratch, const int rows) {
  const int ksplit = (int)a->ksplit;
  const int per_group = TEAMS / ksplit * WROWS;
  const int row_team = (int)get_local_id(0) / TEAM / ksplit;
  const long pair0 = tile.pair0 + part;
  const int pairs = tile.pairs - part;
  matrix_t m[WROWS];
  long n[WROWS];
  long row_at[8];
  sum_t sum[WROWS * 8];
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
    m[r] = down_of(tile, a->D);
    n[r] = min(first + row_team * WROWS + r, a->D - 1);
  }
#pragma unroll
  for (int t = 0; t < rows; ++t) row_at[t] = (pair0 + min(t, pairs - 1)) * a->F;
  zero_sums(sum, rows);
  add_rows(sum, m, n, plain_input(act + a->act_offset, (int)a->act_aligned), row_at, pool, scratch,
           0, ksplit, rows);
  finish_rows(totals, scratch, sum, rows);
  for (int o = (int)get_local_id(0); o < per_group * min(rows, pairs); o += TEAM * TEAMS) {
    const int t = o / per_group;
    const int i = o % per_group;
    const float total = team_total(totals, i / WROWS, i % WROWS, t, ksplit, rows);
    if (first + i < a->D) out[a->out_offset + (pair0 + t) * a->D + first + i] = total;
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void experts_gate_up_1(
    EXPERT_LISTS, const global int* pair_row, const global float* pair_weight,
    const global float* x, global float* act, experts_t a) {
  local float4 pool[POOL];
  local float totals[TOTALS(1)];
  local float scratch[SCRATCH(1)];
  const int per_group = TEAMS / (int)a.ksplit * (WROWS / 2);
  const int blocks = ((int)a.F + per_group - 1) / per_group;
  const int all = n_tiles[a.n_tiles_offset] * blocks;
  int staged = 0;
  int set = 0;
  for (int b = (int)get_group_id(0); b < all; b += (int)get_num_groups(0)) {
    const tile_t tile = tile_at(weights, weights_b, table, tiles, &a, b / blocks);
    const long first = b % blocks * per_group;
    if (first >= tile.e.F) continue;
    gate_up_block(&a, tile, 0, first, pair_row, pair_weight, x, act, pool, totals + set, scratch,
                  staged, 1);
    staged = stays_staged(gate_of(tile, a.D), 1);
    set = set == 0 ? TOTALS(1) / 2 : 0;
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void experts_gate_up_few(
    EXPERT_LISTS, const global int* pair_row, const global float* pair_weight,
    const global float* x, global float* act, experts_t a) {
  local float4 pool[POOL];
  local float totals[TOTALS(MAX_ROWS)];
  local float scratch[SCRATCH(MAX_ROWS)];
  const int per_group = TEAMS / (int)a.ksplit * (WROWS / 2);
  const int blocks = ((int)a.F + per_group - 1) / per_group;
  const int all = n_tiles[a.n_tiles_offset] * blocks;
  const int part = (int)get_group_id(1) * MAX_ROWS;
  int set = 0;
  for (int b = (int)get_group_id(0); b < all; b += (int)get_num_groups(0)) {
    const tile_t tile = tile_at(weights, weights_b, table, tiles, &a, b / blocks);
    const long first = b % blocks * per_group;
    const int pairs = tile.pairs - part;
    if (first >= tile.e.F || pairs <= 0) continue;
    local float* sums = totals + set;
    if (pairs == 1) {
      gate_up_block(&a, tile, part, first, pair_row, pair_weight, x, act, pool, sums, scratch, 0,
                    1);
    } else if (MAX_ROWS == 4 || pairs <= 4) {
      gate_up_block(&a, tile, part, first, pair_row, pair_weight, x, act, pool, sums, scratch, 0,
                    4);
    } else {
      gate_up_block(&a, tile, part, first, pair_row, pair_weight, x, act, pool, sums, scratch, 0,
                    MAX_ROWS);
    }
    set = set == 0 ? TOTALS(MAX_ROWS) / 2 : 0;
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void experts_down_few(
    EXPERT_LISTS, const global float* act, global float* out, experts_t a) {
  local float4 pool[POOL];
  local float totals[TOTALS(MAX_ROWS)];
  local float scratch[SCRATCH(MAX_ROWS)];
  const int per_group = TEAMS / (int)a.ksplit * WROWS;
  const int blocks = ((int)a.D + per_group - 1) / per_group;
  const int all = n_tiles[a.n_tiles_offset] * blocks;
  const int part = (int)get_group_id(1) * MAX_ROWS;
  int set = 0;
  for (int b = (int)get_group_id(0); b < all; b += (int)get_num_groups(0)) {
    const tile_t tile = tile_at(weights, weights_b, table, tiles, &a, b / blocks);
    const long first = b % blocks * per_group;
    const int pairs = tile.pairs - part;
    if (tile.e.F == 0 || pairs <= 0) continue;
    local float* sums = totals + set;
    if (pairs == 1) {
      down_block(&a, tile, part, first, act, out, pool, sums, scratch, 1);
    } else if (MAX_ROWS == 4 || pairs <= 4) {
      down_block(&a, tile, part, first, act, out, pool, sums, scratch, 4);
    } else {
      down_block(&a, tile, part, first, act, out, pool, sums, scratch, MAX_ROWS);
    }
    set = set == 0 ? TOTALS(MAX_ROWS) / 2 : 0;
  }
}

// The tile of pair p; there are few.
INLINE tile_t tile_of_pair(const global uchar* weights, const global uchar* weights_b,
                           const global entry_t* table, const global int4* tiles,
                           const experts_t* a, int p) {
  long i = 0;
  while (p >= tiles[a->tiles_offset + i].y + tiles[a->tiles_offset + i].z) ++i;
  return tile_at(weights, weights_b, table, tiles, a, i);
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void experts_down_sum(
    EXPERT_LISTS, const global int* token_pairs, const global float* act, global float* y,
    experts_t a) {
  local float4 pool[POOL];
  local float totals[TOTALS(1)];
  local float scratch[SCRATCH(1)];
  const int ksplit = (int)a.ksplit;
  const int per_group = TEAMS / ksplit * WROWS;
  const int row_team = (int)get_local_id(0) / TEAM / ksplit;
  const long first = (long)get_group_id(0) * per_group;
  const long t = get_group_id(1);
  const input_t in = plain_input(act + a.act_offset, (int)a.act_aligned);
  sum_t sum[WROWS * 8];
  zero_sums(sum, 1);
  for (int c = 0; c < a.C; ++c) {
    const int p = token_pairs[a.token_pairs_offset + t * a.C + c];
    if (p < 0) continue;
    const tile_t tile = tile_of_pair(weights, weights_b, table, tiles, &a, p);
    matrix_t m[WROWS];
    long n[WROWS];
    long row_at[8];
#pragma unroll
    for (int r = 0; r < WROWS; ++r) {
      m[r] = down_of(tile, a.D);
      n[r] = min(first + row_team * WROWS + r, a.D - 1);
    }
    row_at[0] = p * a.F;
    add_rows(sum, m, n, in, row_at, pool, scratch, 0, ksplit, 1);
  }
  finish_rows(totals, scratch, sum, 1);
  for (int i = (int)get_local_id(0); i < per_group; i += TEAM * TEAMS) {
    if (first + i < a.D) {
      y[a.y_offset + t * a.y_stride + first + i] +=
          team_total(totals, i / WROWS, i % WROWS, 0, ksplit, 1);
    }
  }
}

// ---- many rows

kernel __attribute__((reqd_work_group_size(TILE_GROUP, 1, 1))) void experts_gate_up_many(
    EXPERT_LISTS, const global int* pair_row, const global float* pair_weight,
    const global float* x, global float* act, experts_t a) {
  local float tile_pool[TILE_FLOATS] __attribute__((aligned(16)));
  local long row_at[BM];
  if ((int)get_group_id(2) >= n_tiles[a.n_tiles_offset]) return;
  const tile_t tile = tile_at(weights, weights_b, table, tiles, &a, get_group_id(2));
  const int lid = (int)get_local_id(0);
  const int part = (int)get_group_id(1) * BM;
  const long n0 = (long)get_group_id(0) * BN;
  const long F = tile.e.F;
  const int rows = tile.pairs - part;
  if (rows <= 0 || n0 >= F) return;
  const long pair0 = tile.pair0 + part;
  if (lid < BM) {
    row_at[lid] = lid < rows ? pair_row[a.pair_row_offset + pair0 + lid] * a.x_stride : -1;
  }
  barrier(CLK_LOCAL_MEM_FENCE);

  float gate[TM * TN];
  float up[TM * TN];
  many_rows(gate, tile_pool, gate_of(tile, a.D), n0, F, x + a.x_offset, row_at, (int)a.x_aligned);
  many_rows(up, tile_pool, up_of(tile, a.D), n0, F, x + a.x_offset, row_at, (int)a.x_aligned);
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int m = tile_row(i);
    const float weight = m < rows ? pair_weight[a.pair_weight_offset + pair0 + m] : 0.0f;
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const long n = n0 + tile_column(j);
      if (m < rows && n < F) {
        act[a.act_offset + (pair0 + m) * a.F + n] =
            weight * (silu(gate[i * TN + j]) * up[i * TN + j]);
      }
    }
  }
}

kernel __attribute__((reqd_work_group_size(TILE_GROUP, 1, 1))) void experts_down_many(
    EXPERT_LISTS, const global float* act, global float* out, experts_t a) {
  local float tile_pool[TILE_FLOATS] __attribute__((aligned(16)));
  local long row_at[BM];
  if ((int)get_group_id(2) >= n_tiles[a.n_tiles_offset]) return;
  const tile_t tile = tile_at(weights, weights_b, table, tiles, &a, get_group_id(2));
  const int lid = (int)get_local_id(0);
  const int part = (int)get_group_id(1) * BM;
  const long n0 = (long)get_group_id(0) * BN;
  const int rows = tile.pairs - part;
  if (rows <= 0 || tile.e.F == 0) return;
  const long pair0 = tile.pair0 + part;
  if (lid < BM) row_at[lid] = lid < rows ? (pair0 + lid) * a.F : -1;
  barrier(CLK_LOCAL_MEM_FENCE);

  float sum[TM * TN];
  many_rows(sum, tile_pool, down_of(tile, a.D), n0, a.D, act + a.act_offset, row_at,
            (int)a.act_aligned);
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int m = tile_row(i);
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const long n = n0 + tile_column(j);
      if (m < rows && n < a.D) out[a.out_offset + (pair0 + m) * a.D + n] = sum[i * TN + j];
    }
  }
}
