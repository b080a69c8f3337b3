// Products of one row of x with matrices in formats of small codes, on the matrix units: as
// one_row.cl, with a fraction of its instructions for a weight.
//
//   linear_one_mma           as linear_few_1, of one head
//   experts_gate_up_one_mma  as experts_gate_up_1
//   experts_down_one_mma     as experts_down_sum, of one row
//   all: any number of groups, local (TEAM * TEAMS, 1, 1); K a multiple of PIECE; rows of x on 16
//   bytes, codes and side data on 16; experts: at most ONE_TILES tiles, all of row 0
//
// The sixteen weight rows of a tile are an mma's first operand, x the second, as three f16 whose
// sum it is: exact where |x| is at least 2^-15 of the largest of its 256 columns, else to 2^-39 of
// that. Sums in f32; norms' factors multiply sums, so that staging x need not wait for them.
//
// A work-group takes as many rows as any other, in rounds of up to ROUND_TILES tiles, and x in
// spans of up to SPAN columns. Its warps take the pieces of a span in turn, tile after tile, and
// have the loads of their next piece under way, beyond the end of rows, spans and rounds.
#if defined(ONE_ROW_MMA)

#define SPAN 7168
#define SPAN_PIECES (SPAN / PIECE)
#define PLANE (SPAN / 8 + 4)  // a part of x, in 16 bytes; the four keep parts in different banks
#define ONE_TILES 16
#define LINEAR_TILES 5
#define EXPERT_TILES 4

// Where things lie in the pool, in 16 bytes.
#define ZEROS_AT (3 * PLANE)
#define FACTORS_AT (ZEROS_AT + PIECE / 8)
#define SUMS_OF_X_AT (FACTORS_AT + SPAN / 256 / 4 + 1)
#define SQUARES_AT (SUMS_OF_X_AT + (HAS_MINIMUM ? SPAN / 32 / 4 : 0))
#define TOTALS_AT (SQUARES_AT + TEAMS / 4)
#define TILE_TOTALS (TEAMS * 4)
#define LINEAR_POOL (TOTALS_AT + LINEAR_TILES * TILE_TOTALS)
#define LIST_AT (TOTALS_AT + EXPERT_TILES * TILE_TOTALS)
#define EXPERTS_POOL (LIST_AT + ONE_TILES * 3)

// An expert of the list, and where those so far end: in tiles of gate_up or pieces of down.
typedef struct {
  const global uchar *codes, *side, *codes2, *side2;
  int F, end, pair;
  float weight;
} expert_rows_t;

#define JOB_LINEAR 0
#define JOB_GATE_UP 1
#define JOB_DOWN 2

// What a work-group computes: tiles [tile0, tile0 + tiles) of 16 weight rows, or 8 of one matrix
// and 8 of another, which follow `first` (a row; gate_up: a tile of the list's).
typedef struct {
  int kind, paired;
  uint zero;  // as the compiler cannot know
  int tiles, round_tiles;
  int first, last;
  int pieces;  // of a row
  int K;       // of a weight row; of down, from one act to the next
  int N;       // rows of the first matrix of two that follow each other
  const global uchar *codes, *side, *codes2, *side2;
  const local expert_rows_t* list;
  int experts, list_end;  // list_end: this lane's expert's
} job_t;

// Where a warp is: at piece `b` of the span from piece `span0` on of a row, of tile `tile` of the
// round from tile `begin` on.
typedef struct {
  int begin, tile, span0, b;
} walk_t;

typedef struct {
  int lane, warp, g, c;
} lane_t;

INLINE lane_t this_lane(void) {
  const int lid = (int)get_local_id(0);
  const lane_t at = {lid % 32, lid / 32, lid % 32 / 4, lid % 4};
  return at;
}

INLINE int span_pieces(const job_t* j, int span0) { return min(j->pieces - span0, SPAN_PIECES); }

// To the tile that piece b is in, beyond spans and rounds. False: there is none.
INLINE int settle_walk(walk_t* w, const job_t* j, int warp) {
  for (;;) {
    const int n = span_pieces(j, w->span0);
    if (w->b < n) return 1;
    w->b -= n;
    if (++w->tile < min(w->begin + j->round_tiles, j->tiles)) continue;
    w->span0 += n;
    if (w->span0 == j->pieces) {
      w->span0 = 0;
      w->begin = w->tile;
      if (w->begin >= j->tiles) return 0;
    }
    w->tile = w->begin;
    w->b = warp;
  }
}

// The expert whose tile or piece `at` is.
INLINE int expert_of(const job_t* j, int at) {
  return min(warp_count(at >= j->list_end), j->experts - 1);
}

#if WTYPE == WTYPE_F8
#define SIDE_OF_ROW(side, n, K) ((side) + (ulong)(uint)((n) / 128) * (uint)((K) / 128 * 4))
#else
#define SIDE_OF_ROW(side, n, K) ((side) + (ulong)(uint)(n) * (uint)((K) / PIECE * PIECE_SIDE))
#endif

INLINE void place_row(place_t* at, const int r, const global uchar* codes, const global uchar* side,
                      int n, int K) {
  at->codes[r] = codes + (ulong)(uint)n * (uint)CODE_BYTES(K);
  at->side[r] = SIDE_OF_ROW(side, n, K);
}

// Rows g and g + 8 of tile `tile` at piece `piece`.
INLINE void place_piece(place_t* at, const job_t* j, int tile, int piece, lane_t lane) {
  if (j->kind == JOB_GATE_UP) {
    const int q = j->first + tile;
    const int e = expert_of(j, q);
    const local expert_rows_t* const x = j->list + e;
    const int f = min((q - (e > 0 ? x[-1].end : 0)) * 8 + lane.g, x->F - 1);
    place_row(at, 0, x->codes, x->side, f, j->K);
    place_row(at, 1, x->codes2, x->side2, f, j->K);
  } else if (j->kind == JOB_DOWN) {
    const int e = expert_of(j, piece);
    const local expert_rows_t* const x = j->list + e;
    const int row = j->first + tile * 16 + lane.g;
    piece -= e > 0 ? x[-1].end : 0;
    place_row(at, 0, x->codes, x->side, min(row, j->last), x->F);
    place_row(at, 1, x->codes, x->side, min(row + 8, j->last), x->F);
  } else {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int row = j->first + (j->paired ? tile * 8 : tile * 16 + 8 * r) + lane.g;
      row = min(row, j->last);
      const int other = j->paired ? r : row >= j->N;
      if (other && !j->paired) row -= j->N;
      place_row(at, r, other ? j->codes2 : j->codes, other ? j->side2 : j->side, row, j->K);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    at->codes[r] += (uint)piece * 128u + lane_bytes(lane.c);
    at->side[r] += (uint)piece * PIECE_SIDE;
  }
}

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

INLINE void load_first(loads_t* a, walk_t* w, int* on, const job_t* j, lane_t lane) {
  const uint4 nothing = (uint4)(0);
#pragma unroll
  for (int i = 0; i < 4; ++i) a->codes[i] = nothing;
#pragma unroll
  for (int i = 0; i < 2; ++i) a->side[i] = nothing;
  w->begin = w->tile = w->span0 = 0;
  w->b = lane.warp;
  *on = j->tiles > 0 && settle_walk(w, j, lane.warp);
  place_t at;
  place_piece(&at, j, w->tile, w->span0 + w->b, lane);
  load_piece(a, &at, *on);
}

// The loads of the piece after the one that the walk is at, not before those of `now` have come.
INLINE void load_next(loads_t* a, const loads_t* now, walk_t* w, int* on, const job_t* j,
                      lane_t lane) {
  const uint come = and_bits(now->codes[0].x, j->zero);
  w->b += TEAMS;
  *on = settle_walk(w, j, lane.warp);
  place_t at;
  place_piece(&at, j, w->tile, w->span0 + w->b + (int)come, lane);
  load_piece(a, &at, *on);
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

// Adds a warp's sums of a tile to its own totals.
INLINE void keep_totals(local float* totals, float* total, lane_t lane) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += from_lane(total[r], 1);
    total[r] += from_lane(total[r], 2);
    if (lane.c == 0) totals[lane.warp * 16 + 8 * r + lane.g] += total[r];
    total[r] = 0.0f;
  }
}

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

#define STAGE_AHEAD 2  // loads of x under way

// x of a span to the pool, with zeros to the end of its last run; the sum of its squares over this
// work-item's values.
INLINE float stage_x(local uint4* pool, const job_t* j, const global float* x,
                     const global float* norm_w, int span0, lane_t lane) {
  const int columns = span_pieces(j, span0) * PIECE;
  const int runs = (columns + 255) / 256;
  const int run0 = span0 * PIECE / 256;
  float squares = 0.0f;
  for (int first = lane.warp; first < runs; first += STAGE_AHEAD * TEAMS) {
    float8 v[STAGE_AHEAD];
#pragma unroll
    for (int i = 0; i < STAGE_AHEAD; ++i) {
      const int run = min(first + i * TEAMS, runs - 1);
      const global float* const from = x_of_lane(j, x, run0 + run, lane.lane);
      v[i] = (float8)(0.0f);
      if (run * 256 + lane.lane * 8 < columns) v[i] = load8(from, 1);
    }
#pragma unroll
    for (int i = 0; i < STAGE_AHEAD; ++i) {
      const int run = first + i * TEAMS;
      const int k = run * 256 + lane.lane * 8;
      if (run < runs) {
        squares += sum_of_squares(v[i]);
        if (norm_w && k < columns) v[i] *= vload8(0, norm_w + run0 * 256 + k);
        stage_eight(pool, run, v[i], lane);
      }
    }
  }
  return squares;
}

INLINE void clear_totals(local uint4* pool, int tiles) {
  for (int i = (int)get_local_id(0); i < tiles * TILE_TOTALS; i += TEAM * TEAMS) {
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

// Multiplies the piece of `now` while the one after it comes to `then`. The hardware waits for all
// loads of a counter at once, and the compiler gives them one: so a piece's loads begin when those
// of the piece before are there, by an address that depends on them. False: the span is over.
INLINE int take_piece(float* total, const loads_t* now, loads_t* then, walk_t* w, int* on,
                      const job_t* j, const view_t* v, lane_t lane) {
  const walk_t at = *w;
  load_next(then, now, w, on, j, lane);
  multiply_piece(total, now, v->xs + at.b * v->stride, v->factors[at.b * PIECE / 256],
                 v->sums_of_x + at.b * (PIECE / 32), lane);
  const int same = *on && w->span0 == at.span0 && w->begin == at.begin;
  if (!same || w->tile != at.tile) {
    keep_totals(v->totals + (at.tile - at.begin) * (TEAMS * 16), total, lane);
  }
  return same;
}

// The products of a round's spans, the first of which is in the pool already if `staged`. The
// totals are complete after the next barrier. `second`: the next piece is in the second loads.
INLINE void multiply_round(local uint4* pool, loads_t* loads, int* second, walk_t* w, int* on,
                           const job_t* j, int begin, int staged, const global float* x,
                           const global float* norm_w, lane_t lane) {
  const view_t v = view_of(pool, lane);
  for (int span0 = 0; span0 < j->pieces; span0 += SPAN_PIECES) {
    if (!staged) {
      barrier(CLK_LOCAL_MEM_FENCE);
      stage_x(pool, j, x, norm_w, span0, lane);
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    staged = 0;
    float total[2] = {0.0f, 0.0f};
    int more = *on && w->span0 == span0 && w->begin == begin;
    while (more) {
      if (!*second) more = take_piece(total, loads, loads + 1, w, on, j, &v, lane);
      if (!*second && !more) {
        *second = 1;
        break;
      }
      *second = 0;
      more = take_piece(total, loads + 1, loads, w, on, j, &v, lane);
    }
  }
}

// Row `row` of a round's tile.
INLINE float total_of(const local uint4* pool, int tile, int row) {
  const local float* const totals = (const local float*)(pool + TOTALS_AT) + tile * TEAMS * 16;
  float total = totals[row];
#pragma unroll
  for (int i = 1; i < TEAMS; ++i) total += totals[i * 16 + row];
  return total;
}

// Tiles of a round so that rounds are alike.
INLINE int tiles_of_round(int tiles, const int most) {
  const int rounds = (tiles + most - 1) / most;
  return rounds > 0 ? (tiles + rounds - 1) / rounds : 1;
}

INLINE void clear_zeros(local uint4* pool) {
  for (int i = (int)get_local_id(0); i < PIECE / 8; i += TEAM * TEAMS) {
    pool[ZEROS_AT + i] = (uint4)(0);
  }
}

#endif
