// Products of one row of x on the matrix units (one_row_mma.cl) where a work-group has a single tile
// of sixteen weight rows, so that each piece of x serves one warp: it stages its own pieces, and
// nothing waits for the work-group but the sums at the end. For codes of eight bits.
//
//   linear_one_tile         as linear_one_mma, not paired, K <= 2048   groups: ceil((N + N2) / 16)
//   experts_down_one_tile   as experts_down_one_mma          groups: ceil(D / 16)
#if defined(ONE_ROW_MMA) && BYTE_CODES

#define OWN_PLANE 20               // a part of a piece of x, in 16 bytes; 16 are used
#define OWN_PIECE (3 * OWN_PLANE)  // in 16 bytes
#define LINEAR_BATCH 2             // pieces of a warp at a time
#define DOWN_BATCH 3
#define MOST_BATCH 3

#define TILE_POOL(batch) (TEAMS * ((batch)*OWN_PIECE + PIECE / 8 + 4) + TEAMS / 4)

// A piece on its way: of weights, of x, and of the norm's weights.
typedef struct {
  loads_t w;
  float4 x, norm;
} own_piece_t;

// What a warp has in the pool.
typedef struct {
  local uint4* own;         // its pieces of x
  const local uint4* xs;    // where this work-item's values of the first are, or zeros
  int stride;               // to the next
  local float *totals, *squares;
} own_view_t;

INLINE own_view_t own_view(local uint4* pool, lane_t lane, const int batch) {
  local uint4* const all_zeros = pool + TEAMS * batch * OWN_PIECE;
  local uint4* const zeros = all_zeros + lane.warp * (PIECE / 8);
  const int active = lane.g % 4 < 3 && lane.g / 4 == lane.c / 2;
  own_view_t v;
  v.own = pool + lane.warp * batch * OWN_PIECE;
  v.xs = active ? v.own + lane.g % 4 * OWN_PLANE + lane_place(lane.c) : zeros;
  v.stride = active ? OWN_PIECE : 0;
  v.totals = (local float*)(all_zeros + TEAMS * (PIECE / 8));
  v.squares = v.totals + TEAMS * 16;
  if (lane.lane < PIECE / 8) zeros[lane.lane] = (uint4)(0);
  return v;
}

INLINE void wait_for_warp(void) { asm volatile("bar.warp.sync 0xffffffff;" : : : "memory"); }

// The pieces b, b + TEAMS, ... ; `come` is 0, but known only when what must come before is there.
INLINE void load_own(own_piece_t* p, const job_t* j, const global float* x,
                     const global float* norm_w, int b, uint come, lane_t lane, const int batch) {
#pragma unroll
  for (int i = 0; i < batch; ++i) {
    const int on = b + i * TEAMS < j->pieces;
    const int piece = (on ? b + i * TEAMS : 0) + (int)come;
    place_t at;
    place_piece(&at, j, 0, piece, lane);
    load_piece(&p[i].w, &at, on);
    const global float* const from = j->kind == JOB_DOWN ? x_of_piece(j, x, piece) : x;
    p[i].x = on ? *(const global float4*)(from + piece * PIECE + lane.lane * 4) : (float4)(0.0f);
    if (norm_w) p[i].norm = vload4(0, norm_w + piece * PIECE + lane.lane * 4);
  }
}

// A piece of x to its three parts, as stage_eight; gives what makes up for the power of two.
INLINE float stage_own(local uint4* own, float4 v, lane_t lane) {
  const uint4 sizes = as_uint4(v) & 0x7fffffffu;
  const uint2 half_most = max(sizes.lo, sizes.hi);
  const int exponent = max((int)(warp_max(max(half_most.x, half_most.y)) >> 23), 32);
  v *= as_float((uint)(268 - min(exponent, 254)) << 23);
#pragma unroll
  for (int part = 0; part < 3; ++part) {
    const uint2 pairs = {f16_pair(v.x, v.y), f16_pair(v.z, v.w)};
    ((local uint2*)(own + part * OWN_PLANE))[lane.lane] = pairs;
    v -= (float4)(f32_of_low_f16(pairs.x), f32_of_high_f16(pairs.x), f32_of_low_f16(pairs.y),
                  f32_of_high_f16(pairs.y));
  }
  return as_float((uint)min(exponent - 14 + FACTOR_EXPONENT, 255) << 23);
}

// total += the products of the pieces; gives the squares of x.
INLINE float take_own(float* total, own_piece_t* p, const job_t* j, const own_view_t* v, int b,
                      int norm, lane_t lane, const int batch) {
  float factor[MOST_BATCH];
  float squares = 0.0f;
  wait_for_warp();  // nobody reads the pieces before any more
#pragma unroll
  for (int i = 0; i < batch; ++i) {
    squares = fma(p[i].x.x, p[i].x.x, squares);
    squares = fma(p[i].x.y, p[i].x.y, squares);
    squares = fma(p[i].x.z, p[i].x.z, squares);
    squares = fma(p[i].x.w, p[i].x.w, squares);
    factor[i] = stage_own(v->own + i * OWN_PIECE, norm ? p[i].x * p[i].norm : p[i].x, lane);
  }
  wait_for_warp();
#pragma unroll
  for (int i = 0; i < batch; ++i) {
    if (b + i * TEAMS < j->pieces) {
      multiply_piece(total, &p[i].w, v->xs + i * v->stride, factor[i], 0, lane);
    }
  }
  return squares;
}

// All pieces of the work-group's tile, in one batch if `once`; the sums are in the pool after the next barrier.
INLINE void multiply_own(const job_t* j, const global float* x, const global float* norm_w,
                         const own_view_t* v, lane_t lane, const int batch, const int once) {
  own_piece_t p[2][MOST_BATCH];
#pragma unroll
  for (int i = 0; i < (once ? 1 : 2) * batch; ++i) {
    const uint4 nothing = (uint4)(0);
    own_piece_t* const one = p[i / batch] + i % batch;
#pragma unroll
    for (int k = 0; k < 4; ++k) one->w.codes[k] = nothing;
    one->w.side[0] = nothing;
    one->w.side[1] = nothing;
    one->norm = (float4)(1.0f);
  }
  float total[2] = {0.0f, 0.0f};
  float squares = 0.0f;
  const int step = batch * TEAMS;
  load_own(p[0], j, x, norm_w, lane.warp, 0, lane, batch);
  if (once) {
    squares = take_own(total, p[0], j, v, lane.warp, norm_w != 0, lane, batch);
  }
  for (int b = lane.warp; !once && b < j->pieces; b += 2 * step) {
    if (b + step < j->pieces) {
      load_own(p[1], j, x, norm_w, b + step, and_bits(p[0][0].w.codes[0].x, j->zero), lane, batch);
    }
    squares += take_own(total, p[0], j, v, b, norm_w != 0, lane, batch);
    if (b + step >= j->pieces) break;
    if (b + 2 * step < j->pieces) {
      load_own(p[0], j, x, norm_w, b + 2 * step, and_bits(p[1][0].w.codes[0].x, j->zero), lane,
               batch);
    }
    squares += take_own(total, p[1], j, v, b + step, norm_w != 0, lane, batch);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += from_lane(total[r], 1);
    total[r] += from_lane(total[r], 2);
    if (lane.c == 0) v->totals[lane.warp * 16 + 8 * r + lane.g] = total[r];
  }
  if (!norm_w) return;
  squares = warp_sum(squares);
  if (lane.lane == 0) v->squares[lane.warp] = squares;
}

INLINE float own_total(const own_view_t* v, int row) {
  float total = v->totals[row];
#pragma unroll
  for (int i = 1; i < TEAMS; ++i) total += v->totals[i * 16 + row];
  return total;
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void linear_one_tile(
    const global float* x, const global uchar* w, const global uchar* w2, global float* y,
    global float* y2, const global float* norm_w, global float* norm_out, linear_t a) {
  local uint4 pool[TILE_POOL(LINEAR_BATCH)];
  const lane_t lane = this_lane();
  const int all = (int)(a.N + a.N2);
  const int group = (int)get_group_id(0);
  job_t j = linear_job(&a, w, w2, group, (int)get_num_groups(0));
  j.first = group * 16;
  j.last = min(j.first + 16, all) - 1;
  const global float* const weights = a.norm ? norm_w + a.norm_offset : 0;
  const own_view_t v = own_view(pool, lane, LINEAR_BATCH);
  const int n = j.first + (int)get_local_id(0);
  const int writes = get_local_id(0) < 16 && n <= j.last;
  global float* to = 0;
  float old = 0.0f;
  if (writes) to = n < a.N ? y + a.y_offset + n : y2 + a.y2_offset + (n - a.N);
  if (writes && a.accumulate && n < a.N) old = *to;
  multiply_own(&j, x + a.x_offset, weights, &v, lane, LINEAR_BATCH, 1);
  barrier(CLK_LOCAL_MEM_FENCE);
  float factor = 1.0f;
  if (a.norm) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < TEAMS; ++i) squares += v.squares[i];
    factor = rsqrt(squares / (float)a.K + a.eps);
  }
  if (writes) *to = fma(own_total(&v, (int)get_local_id(0)), factor, old);
  if (a.norm && group == 0) {
    write_norm_mma(&a, x + a.x_offset, weights, norm_out + a.norm_out_offset, factor);
  }
}

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void experts_down_one_tile(
    EXPERT_LISTS, const global float* act, global float* y, experts_t a) {
  local uint4 pool[TILE_POOL(DOWN_BATCH)];
  local expert_rows_t list[ONE_TILES];
  const lane_t lane = this_lane();
  job_t j = experts_job(&a, JOB_DOWN, list);
  const int n =
      list_experts(list, &j.list_end, weights, weights_b, table, tiles, n_tiles, 0, &a, 1, lane);
  if (n == 0) return;
  j.experts = n;
  j.first = (int)get_group_id(0) * 16;
  j.last = min(j.first + 16, (int)a.D) - 1;
  j.tiles = 1;
  j.round_tiles = 1;
  j.pieces = list[n - 1].end;
  j.K = (int)a.F;
  if (j.pieces == 0) return;
  const own_view_t v = own_view(pool, lane, DOWN_BATCH);
  const int d = j.first + (int)get_local_id(0);
  const int writes = get_local_id(0) < 16 && d <= j.last;
  const float old = writes ? y[a.y_offset + d] : 0.0f;
  multiply_own(&j, act + a.act_offset, 0, &v, lane, DOWN_BATCH, 0);
  barrier(CLK_LOCAL_MEM_FENCE);
  if (writes) y[a.y_offset + d] = old + own_total(&v, (int)get_local_id(0));
}

#endif
