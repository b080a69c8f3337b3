// The experts of one row of x: see one_row.cl.
#if NV_COMPUTE >= 70

// Every tile of the list, for the whole work-group.
INLINE int copy_tiles(local tile_t* tiles_here, const global uchar* weights,
                      const global uchar* weights_b, const global entry_t* table,
                      const global int4* tiles, const global int* n_tiles, const experts_t* a) {
  const int n = min(n_tiles[a->n_tiles_offset], ONE_TILES);
  const int lid = (int)get_local_id(0);
  if (lid < n) tiles_here[lid] = tile_at(weights, weights_b, table, tiles, a, lid);
  return n;
}

// A set of rows of gate and up: of a tile, counted from its first.
typedef struct {
  int tile, set;
} cursor_t;

INLINE cursor_t moved(cursor_t at, int by, const local tile_t* tiles, int n) {
  at.set += by;
  for (; at.tile < n; ++at.tile) {
    const int sets = (tiles[at.tile].e.F + WROWS / 2 - 1) / (WROWS / 2);
    if (at.set < sets) break;
    at.set -= sets;
  }
  return at;
}

INLINE rows_t gate_up_set(const local tile_t* tiles, cursor_t at, long D) {
  const tile_t tile = tiles[at.tile];
  const matrix_t gate = gate_of(tile, D);
  const matrix_t up = up_of(tile, D);
  rows_t rows;
  rows.units = (int)(D / UNIT);
#pragma unroll
  for (int r = 0; r < WROWS; ++r) {
    const long f = min((long)at.set * (WROWS / 2) + r / 2, (long)tile.e.F - 1);
    rows.row[r] = row_of(r % 2 == 0 ? gate : up, f);
  }
  return rows;
}

// experts_gate_up_one as work-group `group` of `groups`.
INLINE void gate_up_one_part(EXPERT_LISTS, const global float* pair_weight, const global float* x,
                             global float* act, experts_t a, one_room_t room, int group,
                             int groups) {
  local float4* const pool = room.pool;
  local tile_t* const here = room.tiles;
  const int n = copy_tiles(here, weights, weights_b, table, tiles, n_tiles, &a);
  stage_row(pool, x + a.x_offset, 0, (int)a.D);
  barrier(CLK_LOCAL_MEM_FENCE);
  const member_t m = {(int)get_local_id(0) % TEAM, 0, 1};
  const int stride = groups * TEAMS;
  const cursor_t start = {0, 0};
  cursor_t at = moved(start, group * TEAMS + (int)get_local_id(0) / TEAM, here, n);
  if (at.tile == n) return;
  rows_t rows = gate_up_set(here, at, a.D);
  raw_t ring[AHEAD_STEPS * WROWS];
  load_first(ring, &rows, m);
  while (at.tile < n) {
    const cursor_t after = moved(at, stride, here, n);
    const rows_t next = after.tile < n ? gate_up_set(here, after, a.D) : rows;
    float sum[WROWS];
#pragma unroll
    for (int r = 0; r < WROWS; ++r) sum[r] = 0.0f;
    add_row_set(sum, ring, &rows, &next, pool, m);
    join_sums(sum, room.totals, m);
#pragma unroll
    for (int r = 0; r < WROWS / 2; ++r) sum[r] = silu(sum[2 * r]) * sum[2 * r + 1];
    const local tile_t* const tile = here + at.tile;
    const long f = (long)at.set * (WROWS / 2) + m.lane;
    if (m.lane < WROWS / 2 && f < tile->e.F) {
      act[a.act_offset + tile->pair0 * a.F + f] =
          pair_weight[a.pair_weight_offset + tile->pair0] * own_sum(sum, m.lane);
    }
    rows = next;
    at = after;
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void experts_gate_up_one(
    EXPERT_LISTS, const global int* pair_row, const global float* pair_weight,
    const global float* x, global float* act, experts_t a) {
  ONE_ROOM(room);
  gate_up_one_part(weights, weights_b, table, tiles, n_tiles, pair_weight, x, act, a, room,
                   (int)get_group_id(0), (int)get_num_groups(0));
}

// Vectors of the pool that a tile's act takes.
INLINE int act_vectors(const local tile_t* tile) {
  return (tile->e.F / UNIT + TEAM - 1) / TEAM * STEP_VECTORS;
}

INLINE rows_t down_set(const local tile_t* tile, long D, long first) {
  const matrix_t down = down_of(*tile, D);
  rows_t rows;
  rows.units = tile->e.F / UNIT;
#pragma unroll
  for (int r = 0; r < WROWS; ++r) rows.row[r] = row_of(down, min(first + r, D - 1));
  return rows;
}

// experts_down_one as work-group `group` of as many as there are.
INLINE void down_one_part(EXPERT_LISTS, const global float* act, global float* y, experts_t a,
                          one_room_t room, int group) {
  local float4* const pool = room.pool;
  local tile_t* const here = room.tiles;
  const int n = copy_tiles(here, weights, weights_b, table, tiles, n_tiles, &a);
  barrier(CLK_LOCAL_MEM_FENCE);
  if (n == 0) return;
  const member_t m = {(int)get_local_id(0) % TEAM, 0, 1};
  const long first = ((long)group * TEAMS + (int)get_local_id(0) / TEAM) * WROWS;
  const long d = first + m.lane;
  const int writes = m.lane < WROWS && d < a.D;
  const float old = writes ? y[a.y_offset + d] : 0.0f;
  rows_t rows = down_set(here, a.D, first);
  raw_t ring[AHEAD_STEPS * WROWS];
  load_first(ring, &rows, m);
  float sum[WROWS];
#pragma unroll
  for (int r = 0; r < WROWS; ++r) sum[r] = 0.0f;
  // As many tiles' acts as the pool holds at a time.
  for (int begin = 0; begin < n;) {
    int end = begin;
    for (int at = 0; end < n && at + act_vectors(here + end) <= POOL; ++end) {
      stage_row(pool + at, act + a.act_offset + here[end].pair0 * a.F, 0, here[end].e.F);
      at += act_vectors(here + end);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = begin, at = 0; i < end; ++i) {
      const rows_t next = i + 1 < n ? down_set(here + i + 1, a.D, first) : rows;
      add_row_set(sum, ring, &rows, &next, pool + at, m);
      at += act_vectors(here + i);
      rows = next;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    begin = end;
  }
  join_sums(sum, room.totals, m);
  if (writes) y[a.y_offset + d] = old + own_sum(sum, m.lane);
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void experts_down_one(
    EXPERT_LISTS, const global float* act, global float* y, experts_t a) {
  ONE_ROOM(room);
  down_one_part(weights, weights_b, table, tiles, n_tiles, act, y, a, room, (int)get_group_id(0));
}

#endif  // NV_COMPUTE
