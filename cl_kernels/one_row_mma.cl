// The arithmetic of one_row_walk.cl: x to local memory, and pieces times x.
#if defined(ONE_ROW_MMA)

// Codes and side data of a piece, perhaps on their way.
typedef struct {
  uint4 codes[4];
  uint4 side[2];
} loads_t;

INLINE void load_piece(loads_t* a, const place_t* at, int on) {
  load_side(a->side, at, on);
#pragma unroll
  for (int i = 0; i < 2; ++i) load_codes(a->codes, at, i, on);
}

// Before any loads: where a span has no piece, zeros of x multiply what came before.
INLINE void set_nothing(loads_t* a) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a->codes[i] = (uint4)(0);
#pragma unroll
  for (int i = 0; i < 2; ++i) a->side[i] = (uint4)(0);
}

INLINE void load_first(loads_t* a, loader_t* l, const job_t* j, lane_t lane) {
  set_nothing(a);
  set_nothing(a + 1);
  enter_span(&l->walk, j, 0, j->piece0, lane);
  settle_loader(l, j, 0, lane);
  load_piece(a, &l->at, l->on);
}

// total[r] += the products of a piece.
INLINE void multiply_piece(float* total, const loads_t* a, const local uint4* xs, float factor,
                           const local float* sums_of_x, lane_t lane) {
  scales_t scales[2];
  read_scales(scales, a->side[0], factor, lane.c);
  read_scales(scales + 1, a->side[1], factor, lane.c);
#pragma unroll
  for (int chain = 0; chain < CHAINS; ++chain) {
    const int unit = unit_of_chain(chain);
    uint low[8], high[8];
    pairs_of_chain(low, a->codes[2 * unit], chain);
    pairs_of_chain(high, a->codes[2 * unit + 1], chain);
    const uint4 x0 = xs[chain_place(chain)];
    const uint4 x1 = xs[chain_place(chain) + SECOND_PLACE];
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_f16(sum, low[0], high[0], low[1], high[1], x0.x, x0.y);
    mma_f16(sum, low[2], high[2], low[3], high[3], x0.z, x0.w);
    mma_f16(sum, low[4], high[4], low[5], high[5], x1.x, x1.y);
    mma_f16(sum, low[6], high[6], low[7], high[7], x1.z, x1.w);
    float sum_of_x = 0.0f;
#if WTYPE == WTYPE_Q4_K
    sum_of_x = sums_of_x[chain / 2 * 4 + lane.c / 2 * 2 + chain % 2];
#elif HAS_MINIMUM
    sum_of_x = sums_of_x[chain * 2 + lane.c / 2];
#endif
    total[0] = add_scaled(total[0], sum[0] + sum[1], scales, chain, factor, sum_of_x, lane.c);
    total[1] = add_scaled(total[1], sum[2] + sum[3], scales + 1, chain, factor, sum_of_x, lane.c);
  }
}

// Adds a warp's sums of a tile to its totals of it.
INLINE void keep_totals(local float* totals, float* total, lane_t lane) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += from_lane(total[r], 1);
    total[r] += from_lane(total[r], 2);
    if (lane.c == 0) totals[8 * r + lane.g] += total[r];
    total[r] = 0.0f;
  }
}

INLINE int span_pieces(const job_t* j, int span0) { return min(j->pieces - span0, j->span); }

// Where this lane's eight of the 256 columns `run` of x are. Of down a piece's columns are those of
// one expert's act, and a run may have pieces of two.
INLINE const global float* x_of_piece(const job_t* j, const global float* x, int piece) {
  const int e = expert_of(j, piece);
  const int begin = e > 0 ? j->list[e - 1].end : 0;
  return x + (long)j->list[e].pair * j->K - begin * PIECE;
}
INLINE const global float* x_of_lane(const job_t* j, const global float* x, int run, int lane) {
  if (j->kind == JOB_DOWN) {
    const global float* const first = x_of_piece(j, x, run * (256 / PIECE));
    const global float* const last = x_of_piece(j, x, run * (256 / PIECE) + 256 / PIECE - 1);
    x = lane * 8 < PIECE ? first : last;
  }
  return x + run * 256 + lane * 8;
}

INLINE float sum_of_squares(float8 v) { return dot8(v, v, 0.0f); }

// Eight columns of a run to their three parts. Of the warp's 256 columns the largest becomes some
// 2^14, and `factors` has what makes up for that.
INLINE void stage_eight(local uint4* pool, int run, float8 v, lane_t lane) {
  const uint8 sizes = as_uint8(v) & 0x7fffffffu;
  const uint4 half_most = max(sizes.lo, sizes.hi);
  const uint2 most = max(half_most.lo, half_most.hi);
  const int exponent = max((int)(warp_max(max(most.x, most.y)) >> 23), 32);
  const float up = as_float((uint)(268 - min(exponent, 254)) << 23);
  local float* const factors = (local float*)(pool + FACTORS_AT);
  if (lane.lane == 0)
    factors[run] = as_float((uint)min(exponent - 14 + FACTOR_EXPONENT, 255) << 23);
#if HAS_MINIMUM
  float sum = sum8(v);
  sum += from_lane(sum, 1);
  sum += from_lane(sum, 2);
  if (lane.c == 0) ((local float*)(pool + SUMS_OF_X_AT))[run * 8 + lane.g] = sum;
#endif
  v *= UPPER_SIXTEENTH && lane.c >= 2 ? up * 0.0625f : up;
#if CROSSED_PAIRS
  v = v.s02134657;
#endif
#pragma unroll
  for (int part = 0; part < 3; ++part) {
    const uint4 pairs = {f16_pair(v.s0, v.s1), f16_pair(v.s2, v.s3), f16_pair(v.s4, v.s5),
                         f16_pair(v.s6, v.s7)};
    pool[part * PLANE + run * 32 + lane.lane] = pairs;
    v -= (float8)(f32_of_low_f16(pairs.x), f32_of_high_f16(pairs.x), f32_of_low_f16(pairs.y),
                  f32_of_high_f16(pairs.y), f32_of_low_f16(pairs.z), f32_of_high_f16(pairs.z),
                  f32_of_low_f16(pairs.w), f32_of_high_f16(pairs.w));
  }
}

// Begins to bring x of a span to the pool, in f32 and with zeros where the last span has no pieces:
// each work-item's eight columns of a run to where it puts their first two parts, by copies, as
// loads would have to wait for those of weights.
INLINE void fetch_x(local uint4* pool, const job_t* j, const global float* x, int span0,
                    lane_t lane) {
  const int columns = span_pieces(j, span0) * PIECE;
  const int runs = j->span * PIECE / 256;
  for (int run = lane.warp; run < runs; run += ONE_WARPS) {
    const int on = run * 256 + lane.lane * 8 < columns;
    const global float* from = x_of_lane(j, x, span0 * PIECE / 256 + run, lane.lane);
    if (!on) from = x;
    copy16_once(pool + run * 32 + lane.lane, from, on ? 16 : 0);
    copy16_once(pool + PLANE + run * 32 + lane.lane, from + 4, on ? 16 : 0);
  }
}

// What fetch_x brings to its three parts; the sum of its squares over this work-item's values.
INLINE float stage_x(local uint4* pool, const job_t* j, const global float* norm_w, int span0,
                     lane_t lane) {
  const int columns = span_pieces(j, span0) * PIECE;
  const int runs = j->span * PIECE / 256;
  float squares = 0.0f;
  wait_for_copies();
  for (int run = lane.warp; run < runs; run += ONE_WARPS) {
    const int k = run * 256 + lane.lane * 8;
    float8 v = {as_float4(pool[run * 32 + lane.lane]),
                as_float4(pool[PLANE + run * 32 + lane.lane])};
    squares += sum_of_squares(v);
    if (norm_w && k < columns) v *= vload8(0, norm_w + span0 * PIECE + k);
    stage_eight(pool, run, v, lane);
  }
  return squares;
}

INLINE void clear_totals(local uint4* pool, int tiles) {
  for (int i = (int)get_local_id(0); i < TOTALS(tiles); i += TEAM * ONE_WARPS) {
    pool[TOTALS_AT + i] = (uint4)(0);
  }
}

// Where a work-item's x is, and what it needs of the pool otherwise.
typedef struct {
  const local uint4* xs;
  int stride;
  const local float *factors, *sums_of_x;
  local float* totals;
} view_t;

INLINE view_t view_of(local uint4* pool, lane_t lane) {
  const int active = lane.g % 4 < 3 && lane.g / 4 == lane.c / 2;
  view_t v;
  v.xs = active ? pool + lane.g % 4 * PLANE + lane_place(lane.c) : pool + ZEROS_AT;
  v.stride = active ? PIECE / 8 : 0;
  v.factors = (const local float*)(pool + FACTORS_AT);
  v.sums_of_x = (const local float*)(pool + SUMS_OF_X_AT);
  v.totals = (local float*)(pool + TOTALS_AT);
  return v;
}

// Multiplies the piece that w is at while the one after it comes to `then`. The hardware waits for
// all loads of a counter at once, and the compiler gives them one: so a piece's loads begin when
// those of the piece before are there, by an address that depends on them.
INLINE void take_piece(float* total, const loads_t* now, loads_t* then, walk_t* w, loader_t* l,
                       const job_t* j, const view_t* v, lane_t lane) {
  const walk_t at = *w;
  next_load(l, j, and_bits(now->codes[0].x, j->zero), lane);
  if (l->on) load_piece(then, &l->at, 1);
  multiply_piece(total, now, v->xs + at.b * v->stride, v->factors[at.b * PIECE / 256],
                 v->sums_of_x + at.b * (PIECE / 32), lane);
  step_walk(w, j);
  if (w->left > 0 && w->tile == at.tile) return;
  const int slot =
      (at.tile - at.begin + lane.warp / SIDE_WARPS) * SIDE_WARPS + lane.warp % SIDE_WARPS;
  keep_totals(v->totals + slot * 16, total, lane);
}

// The products of a round's spans, the first of which is in the pool already if `staged`. The
// totals are complete after the next barrier. `second`: the next piece is in the second loads.
INLINE void multiply_round(local uint4* pool, loads_t* loads, int* second, loader_t* l,
                           const job_t* j, int begin, int staged, const global float* x,
                           const global float* norm_w, lane_t lane) {
  const view_t v = view_of(pool, lane);
  for (int span0 = j->piece0; span0 < j->pieces; span0 += j->span) {
    if (!staged) {
      barrier(CLK_LOCAL_MEM_FENCE);
      fetch_x(pool, j, x, span0, lane);
      stage_x(pool, j, norm_w, span0, lane);
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    staged = 0;
    float total[2] = {0.0f, 0.0f};
    walk_t w;
    enter_span(&w, j, begin, span0, lane);
    while (w.left > 0) {
      if (!*second) take_piece(total, loads, loads + 1, &w, l, j, &v, lane);
      if (!*second && w.left == 0) {
        *second = 1;
        break;
      }
      *second = 0;
      take_piece(total, loads + 1, loads, &w, l, j, &v, lane);
    }
  }
}

// Row `row` of tile `tile` of the round from `begin` on. Sides and tiles that meet lie one after
// the other, as either the one or the other or both come next.
INLINE float total_of(const local uint4* pool, const job_t* j, int begin, int tile, int row) {
  const local float* const totals = (const local float*)(pool + TOTALS_AT);
  const int all = round_pieces(j, begin);
  float total = 0.0f;
#pragma unroll
  for (int side = 0; side < SIDES; ++side) {
    const int first = side_begin(all, side);
    const int end = side_begin(all, side + 1);
    if (first < end && first < (tile + 1) * j->span && end > tile * j->span) {
#pragma unroll
      for (int i = 0; i < SIDE_WARPS; ++i) {
        total += totals[((tile + side) * SIDE_WARPS + i) * 16 + row];
      }
    }
  }
  return total;
}

// Tiles of a round so that rounds are alike.
INLINE int tiles_of_round(int tiles, const int most) {
  const int rounds = (tiles + most - 1) / most;
  return rounds > 0 ? (tiles + rounds - 1) / rounds : 1;
}

INLINE void clear_zeros(local uint4* pool) {
  for (int i = (int)get_local_id(0); i < PIECE / 8; i += TEAM * ONE_WARPS) {
    pool[ZEROS_AT + i] = (uint4)(0);
  }
}

#endif
