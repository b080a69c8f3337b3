// The kernels of one_row_mma.cl. Their bodies take their work-group's number, so that a kernel may
// have several of them do its work in turn; they begin and end without a barrier of their own.
#if defined(ONE_ROW_MMA)

INLINE float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += from_lane(v, step);
  return v;
}

// The norm's factor from each work-item's squares: between two barriers.
INLINE void keep_squares(local uint4* pool, float squares, lane_t lane) {
  squares = warp_sum(squares);
  if (lane.lane == 0) ((local float*)(pool + SQUARES_AT))[lane.warp] = squares;
}
INLINE float norm_factor(const local uint4* pool, float K, float eps) {
  float all = 0.0f;
#pragma unroll
  for (int i = 0; i < ONE_WARPS; ++i) all += ((const local float*)(pool + SQUARES_AT))[i];
  return rsqrt(all / K + eps);
}

// x' of one row, by one work-group.
INLINE void write_norm_mma(const linear_t* a, const global float* x, const global float* norm_w,
                           global float* out, float factor) {
  for (int k = (int)get_local_id(0); k < (int)a->K; k += (int)get_local_size(0)) {
    out[k] = norm_w[k] * (x[k] * factor);
  }
}

// The share of a work-group of `all` rows or tiles.
INLINE int share_begin(int all, int group, int groups) {
  const uint each = (uint)all / (uint)groups;
  const uint rest = (uint)all - each * (uint)groups;
  return (int)(each * (uint)group + rest * (uint)group / (uint)groups);
}

INLINE job_t linear_job(const linear_t* a, const global uchar* w, const global uchar* w2, int group,
                        int groups) {
  const int all = (int)(a->N + (a->swiglu ? 0 : a->N2));
  const int rows = a->swiglu ? 8 : 16;
  job_t j;
  j.kind = JOB_LINEAR;
  j.paired = (int)a->swiglu;
  j.followed = a->N2 > 0;
  j.zero = (uint)((ulong)a->K >> 62);
  j.first = share_begin(all, group, groups);
  j.last = share_begin(all, group + 1, groups) - 1;
  j.tiles = (j.last - j.first + rows) / rows;
  j.round_tiles = tiles_of_round(j.tiles, LINEAR_TILES);
  j.piece0 = 0;
  j.pieces = (int)a->K / PIECE;
  j.span = span_of(j.pieces);
  j.K = (int)a->K;
  j.N = (int)a->N;
  j.codes = w + a->w_offset;
  j.side = w + a->w_side;
  j.codes2 = w2 + a->w2_offset;
  j.side2 = w2 + a->w2_side;
  j.list = 0;
  j.experts = 0;
  j.list_end = 0;
  return j;
}

// Output `o` of the tiles from `begin` on; null: there is none.
INLINE global float* linear_mma_output(const linear_t* a, const job_t* j, global float* y,
                                       global float* y2, int begin, int o) {
  const int n = j->first + begin * (j->paired ? 8 : 16) + o;
  if (n > j->last || o >= j->round_tiles * (j->paired ? 8 : 16)) return 0;
  return !j->followed || n < a->N ? y + a->y_offset + n : y2 + a->y2_offset + (n - a->N);
}

INLINE float linear_mma_old(const linear_t* a, const job_t* j, global float* y, int begin, int o) {
  if (!a->accumulate || j->first + begin * (j->paired ? 8 : 16) + o >= a->N) return 0.0f;
  const global float* const from = linear_mma_output(a, j, y, y, begin, o);
  return from ? *from : 0.0f;
}

// Parts: of one matrix, without a norm.
INLINE void linear_one_mma_group(local uint4* pool, const global float* x, const global uchar* w,
                                 const global uchar* w2, global float* y, global float* y2,
                                 const global float* norm_w, global float* norm_out,
                                 global float* kept, const linear_t* a, const part_t* part) {
  const lane_t lane = this_lane();
  job_t j = linear_job(a, w, w2, part->share, part->shares);
  take_part(&j, part);
  if (j.tiles == 0) return;
  const global float* const weights = a->norm ? norm_w + a->norm_offset : 0;
  x += a->x_offset;
  fetch_x(pool, &j, x, j.piece0, lane);
  loads_t loads[2];
  loader_t loader;
  int second = 0;
  load_first(loads, &loader, &j, lane);
  clear_zeros(pool);
  clear_totals(pool, j.round_tiles);
  keep_squares(pool, stage_x(pool, &j, weights, j.piece0, lane), lane);
  barrier(CLK_LOCAL_MEM_FENCE);
  const float factor = a->norm ? norm_factor(pool, (float)a->K, a->eps) : 1.0f;
  for (int begin = 0; begin < j.tiles; begin += j.round_tiles) {
    if (begin > 0) {
      barrier(CLK_LOCAL_MEM_FENCE);
      clear_totals(pool, j.round_tiles);
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    const int o = (int)get_local_id(0);
    const float old = part->count > 1 ? 0.0f : linear_mma_old(a, &j, y, begin, o);
    multiply_round(pool, loads, &second, &loader, &j, begin,
                   begin == 0 || j.pieces - j.piece0 <= j.span, x, weights, lane);
    barrier(CLK_LOCAL_MEM_FENCE);
    global float* const to = linear_mma_output(a, &j, y, y2, begin, o);
    if (!to) continue;
    if (j.paired) {
      const float gate = total_of(pool, &j, begin, o / 8, o % 8) * factor;
      *to = old + silu(gate) * (total_of(pool, &j, begin, o / 8, o % 8 + 8) * factor);
    } else if (part->count > 1) {
      kept[part->number * (int)a->N + j.first + begin * 16 + o] =
          total_of(pool, &j, begin, o / 16, o % 16);
    } else {
      *to = fma(total_of(pool, &j, begin, o / 16, o % 16), factor, old);
    }
  }
  if (a->norm && part->share == 0)
    write_norm_mma(a, x, weights, norm_out + a->norm_out_offset, factor);
}

// The outputs of a share, from what its parts kept.
INLINE void linear_sum_parts(const linear_t* a, const part_t* p, const global float* kept,
                             global float* y) {
  const int all = (int)a->N;
  const int end = share_begin(all, p->share + 1, p->shares);
  for (int n = share_begin(all, p->share, p->shares) + (int)get_local_id(0); n < end;
       n += TEAM * ONE_WARPS) {
    put(y + a->y_offset + n, sum_of_parts(kept, p, all, n), (int)a->accumulate);
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * ONE_WARPS, 1, 1))) void linear_one_mma(
    const global float* x, const global uchar* w, const global uchar* w2, global float* y,
    global float* y2, const global float* norm_w, global float* norm_out, linear_t a) {
  local uint4 pool[LINEAR_POOL];
  const part_t part = whole_part((int)get_group_id(0), (int)get_num_groups(0));
  linear_one_mma_group(pool, x, w, w2, y, y2, norm_w, norm_out, 0, &a, &part);
}

// What the compiler knows not to come takes no registers: with a second matrix and a norm among the
// cases, Q4_K's products spill 204 bytes of them.
INLINE void leave_plain(linear_t* a) {
  a->N2 = 0;
  a->norm = 0;
  a->swiglu = 0;
}

kernel __attribute__((reqd_work_group_size(TEAM * ONE_WARPS, 1, 1))) void linear_one_plain(
    const global float* x, const global uchar* w, global float* y, linear_t a) {
  local uint4 pool[LINEAR_POOL];
  leave_plain(&a);
  const part_t part = whole_part((int)get_group_id(0), (int)get_num_groups(0));
  linear_one_mma_group(pool, x, w, w, y, y, 0, 0, 0, &a, &part);
}

// ksplit: parts of the columns.
kernel __attribute__((reqd_work_group_size(TEAM * ONE_WARPS, 1, 1))) void linear_one_parts(
    const global float* x, const global uchar* w, global float* y, volatile global int* arrived,
    linear_t a) {
  local uint4 pool[LINEAR_POOL];
  local int last;
  leave_plain(&a);
  const part_t part =
      part_of((int)a.K / PIECE, (int)a.ksplit, (int)get_group_id(0), (int)get_num_groups(0));
  if (part.number == part.count) return;
  linear_one_mma_group(pool, x, w, w, y, y, 0, 0, kept_sums(arrived), &a, &part);
  if (part.count == 1 || !is_last_group(arrived + part.share, part.count, &last)) return;
  linear_sum_parts(&a, &part, kept_sums(arrived), y);
}

// ---- experts

// The list of a row's experts, for the whole work-group: their number, with each lane's end.
INLINE int list_experts(local expert_rows_t* list, int* list_end, const global uchar* weights,
                        const global uchar* weights_b, const global entry_t* table,
                        const global int4* tiles, const global int* n_tiles,
                        const global float* pair_weight, const experts_t* a, const int down,
                        lane_t lane) {
  const int chosen = (int)a->chosen;
  const int n = chosen ? (int)a->C - (down ? 0 : 1) : min(n_tiles[a->n_tiles_offset], ONE_TILES);
  const int lid = (int)get_local_id(0);
  if (lid < n) {
    const tile_t tile = chosen ? chosen_tile(weights, weights_b, table, a, lid)
                               : tile_at(weights, weights_b, table, tiles, a, lid);
    local expert_rows_t* const to = list + lid;
    to->codes = tile.weights + (down ? tile.e.down : tile.e.gate);
    to->side = tile.weights + (down ? tile.e.down_side : tile.e.gate_side);
    to->codes2 = tile.weights + tile.e.up;
    to->side2 = tile.weights + tile.e.up_side;
    to->F = tile.e.F;
    to->pair = (int)tile.pair0;
    to->weight = down ? 1.0f : pair_weight[a->pair_weight_offset + tile.pair0];
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  int end = 0;
  for (int i = 0; i < n && i <= lane.lane; ++i) {
    end += down ? list[i].F / PIECE : (list[i].F + 7) / 8;
  }
  *list_end = lane.lane < n ? end : 0x7fffffff;
  if (lid < n) list[lid].end = end;
  barrier(CLK_LOCAL_MEM_FENCE);
  return n;
}

// Without what the list says.
INLINE job_t experts_job(const experts_t* a, const int kind, const local expert_rows_t* list) {
  job_t j;
  j.kind = kind;
  j.zero = (uint)((ulong)a->D >> 62);
  j.paired = 0;
  j.followed = 0;
  j.piece0 = 0;
  j.list = list;
  j.experts = 0;
  j.list_end = 0;
  j.codes = 0;
  j.side = 0;
  j.codes2 = 0;
  j.side2 = 0;
  j.N = 0;
  return j;
}

INLINE void put_act(const local uint4* pool, const job_t* j, const experts_t* a, global float* act,
                    int begin) {
  const int o = (int)get_local_id(0);
  const int tile = begin + o / 8;
  if (o >= j->round_tiles * 8 || tile >= j->tiles) return;
  const int q = j->first + tile;
  int e = 0;
  while (q >= j->list[e].end) ++e;
  const local expert_rows_t* const expert = j->list + e;
  const int f = (q - (e > 0 ? expert[-1].end : 0)) * 8 + o % 8;
  if (f >= expert->F) return;
  act[a->act_offset + expert->pair * a->F + f] =
      expert->weight *
      (silu(total_of(pool, j, begin, o / 8, o % 8)) * total_of(pool, j, begin, o / 8, o % 8 + 8));
}

INLINE void experts_gate_up_one_mma_group(local uint4* pool, const global uchar* weights,
                                          const global uchar* weights_b,
                                          const global entry_t* table, const global int4* tiles,
                                          const global int* n_tiles,
                                          const global float* pair_weight, const global float* x,
                                          global float* act, const experts_t* a, int group,
                                          int groups) {
  const lane_t lane = this_lane();
  local expert_rows_t* const list = (local expert_rows_t*)(pool + LIST_AT);
  job_t j = experts_job(a, JOB_GATE_UP, list);
  j.pieces = (int)a->D / PIECE;
  j.span = span_of(j.pieces);
  j.K = (int)a->D;
  x += a->x_offset;
  fetch_x(pool, &j, x, 0, lane);
  const int n = list_experts(list, &j.list_end, weights, weights_b, table, tiles, n_tiles,
                             pair_weight, a, 0, lane);
  const int all = n > 0 ? list[n - 1].end : 0;
  j.experts = n;
  j.first = share_begin(all, group, groups);
  j.last = 0;
  j.tiles = share_begin(all, group + 1, groups) - j.first;
  j.round_tiles = tiles_of_round(j.tiles, EXPERT_TILES);
  if (j.tiles == 0) {
    wait_for_copies();
    return;
  }
  loads_t loads[2];
  loader_t loader;
  int second = 0;
  load_first(loads, &loader, &j, lane);
  clear_zeros(pool);
  clear_totals(pool, j.round_tiles);
  stage_x(pool, &j, 0, 0, lane);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int begin = 0; begin < j.tiles; begin += j.round_tiles) {
    if (begin > 0) {
      barrier(CLK_LOCAL_MEM_FENCE);
      clear_totals(pool, j.round_tiles);
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    multiply_round(pool, loads, &second, &loader, &j, begin,
                   begin == 0 || j.pieces - j.piece0 <= j.span, x, 0, lane);
    barrier(CLK_LOCAL_MEM_FENCE);
    put_act(pool, &j, a, act, begin);
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * ONE_WARPS, 1, 1))) void experts_gate_up_one_mma(
    EXPERT_LISTS, const global float* pair_weight, const global float* x, global float* act,
    experts_t a) {
  local uint4 pool[EXPERTS_POOL];
  experts_gate_up_one_mma_group(pool, weights, weights_b, table, tiles, n_tiles, pair_weight, x,
                                act, &a, (int)get_group_id(0), (int)get_num_groups(0));
}

INLINE void down_sum_parts(const experts_t* a, const part_t* p, const global float* kept,
                           global float* y) {
  const int end = share_begin((int)a->D, p->share + 1, p->shares);
  for (int d = share_begin((int)a->D, p->share, p->shares) + (int)get_local_id(0); d < end;
       d += TEAM * ONE_WARPS) {
    y[a->y_offset + d] += sum_of_parts(kept, p, (int)a->D, d);
  }
}

// ksplit: parts of the columns where one span does not hold them.
INLINE void experts_down_one_mma_group(local uint4* pool, const global uchar* weights,
                                       const global uchar* weights_b, const global entry_t* table,
                                       const global int4* tiles, const global int* n_tiles,
                                       const global float* act, global float* y,
                                       volatile global int* arrived, const experts_t* a, int group,
                                       int groups) {
  const lane_t lane = this_lane();
  local expert_rows_t* const list = (local expert_rows_t*)(pool + LIST_AT);
  job_t j = experts_job(a, JOB_DOWN, list);
  const int n =
      list_experts(list, &j.list_end, weights, weights_b, table, tiles, n_tiles, 0, a, 1, lane);
  if (n == 0) return;
  j.pieces = list[n - 1].end;
  j.span = span_of(j.pieces);
  const int split = j.pieces > SPAN_PIECES && j.pieces <= (int)a->ksplit * SPAN_PIECES;
  const part_t part = part_of(j.pieces, split ? (int)a->ksplit : 1, group, groups);
  if (part.number == part.count) return;
  take_part(&j, &part);
  j.experts = n;
  j.first = share_begin((int)a->D, part.share, part.shares);
  j.last = share_begin((int)a->D, part.share + 1, part.shares) - 1;
  j.tiles = (j.last - j.first + 16) / 16;
  j.round_tiles = tiles_of_round(j.tiles, EXPERT_TILES);
  j.K = (int)a->F;
  if (j.tiles == 0 || j.pieces == 0) return;
  act += a->act_offset;
  fetch_x(pool, &j, act, j.piece0, lane);
  loads_t loads[2];
  loader_t loader;
  int second = 0;
  load_first(loads, &loader, &j, lane);
  clear_zeros(pool);
  clear_totals(pool, j.round_tiles);
  stage_x(pool, &j, 0, j.piece0, lane);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int begin = 0; begin < j.tiles; begin += j.round_tiles) {
    if (begin > 0) {
      barrier(CLK_LOCAL_MEM_FENCE);
      clear_totals(pool, j.round_tiles);
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    const int o = (int)get_local_id(0);
    const int d = j.first + begin * 16 + o;
    const int writes = o < j.round_tiles * 16 && d <= j.last;
    const float old = writes && part.count == 1 ? y[a->y_offset + d] : 0.0f;
    multiply_round(pool, loads, &second, &loader, &j, begin,
                   begin == 0 || j.pieces - j.piece0 <= j.span, act, 0, lane);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (!writes) continue;
    const float total = total_of(pool, &j, begin, o / 16, o % 16);
    if (part.count > 1) {
      kept_sums(arrived)[part.number * (int)a->D + d] = total;
    } else {
      y[a->y_offset + d] = old + total;
    }
  }
  if (part.count == 1) return;
  if (is_last_group(arrived + part.share, part.count, (local int*)(pool + LIST_AT))) {
    down_sum_parts(a, &part, kept_sums(arrived), y);
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * ONE_WARPS, 1, 1))) void experts_down_one_mma(
    EXPERT_LISTS, const global float* act, global float* y, volatile global int* arrived,
    experts_t a) {
  local uint4 pool[EXPERTS_POOL];
  experts_down_one_mma_group(pool, weights, weights_b, table, tiles, n_tiles, act, y, arrived, &a,
                             (int)get_group_id(0), (int)get_num_groups(0));
}

#endif
