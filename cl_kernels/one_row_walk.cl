// Products of one row of x with matrices in formats of small codes, on the matrix units: as
// one_row.cl, with a fraction of its instructions for a weight. Here: what a work-group computes,
// and in which order its warps go through it.
//
//   linear_one_mma           as linear_few_1, of one head
//   linear_one_plain         the same of one matrix, without a norm
//   linear_one_parts         as that; work-groups share out the columns (one_row_parts.cl)
//   experts_gate_up_one_mma  as experts_gate_up_1
//   experts_down_one_mma     as experts_down_sum, of one row
//   all: any number of groups, local (TEAM * ONE_WARPS, 1, 1); K a multiple of PIECE; rows of x on
//   16 bytes, codes and side data on 16; experts: at most ONE_TILES tiles, all of row 0
//
// The sixteen weight rows of a tile are an mma's first operand, x the second, as three f16 whose
// sum it is: exact where |x| is at least 2^-15 of the largest of its 256 columns, else to 2^-39 of
// that. Sums in f32; norms' factors multiply sums, so that staging x need not wait for them.
//
// A work-group takes as many rows as any other, in rounds of up to ROUND_TILES tiles, and x in
// equal spans of up to SPAN columns. The pieces of a span, tile after tile, are shared out to its
// SIDES, each a run of them, whose SIDE_WARPS warps take them in turn: each has the loads of its
// next piece under way, beyond the end of rows, spans and rounds. Where there is room for their
// sums, a work-group takes one span only, for as many times the rows (one_row_parts.cl).
#if defined(ONE_ROW_MMA)

#define ONE_WARPS 16
#ifndef SIDE_WARPS
#define SIDE_WARPS (BYTE_CODES ? 4 : 2)
#endif
#define SIDES (ONE_WARPS / SIDE_WARPS)

#define SPAN 7168
#define SPAN_PIECES (SPAN / PIECE)
#define PLANE (SPAN / 8 + 4)  // a part of x, in 16 bytes; the four keep parts in different banks
#define ONE_TILES 16

// Where things lie in the pool, in 16 bytes.
#define ZEROS_AT (3 * PLANE)
#define FACTORS_AT (ZEROS_AT + PIECE / 8)
#define SUMS_OF_X_AT (FACTORS_AT + SPAN / 256 / 4 + 1)
#define SQUARES_AT (SUMS_OF_X_AT + (HAS_MINIMUM ? SPAN / 32 / 4 : 0))
#define TOTALS_AT (SQUARES_AT + (ONE_WARPS + 3) / 4)
#define TILE_TOTALS (SIDE_WARPS * 4)
#define TOTALS(tiles) (((tiles) + SIDES - 1) * TILE_TOTALS)
#define LINEAR_POOL (TOTALS_AT + TOTALS(LINEAR_TILES))
#define LIST_AT (TOTALS_AT + TOTALS(EXPERT_TILES))
#define EXPERTS_POOL (LIST_AT + ONE_TILES * 3)
// Tiles of a round: what a work-group's local memory has room for.
#define POOL_MOST 3008
#define LINEAR_TILES ((POOL_MOST - TOTALS_AT) / TILE_TOTALS - SIDES + 1)
#define EXPERT_TILES ((POOL_MOST - TOTALS_AT - ONE_TILES * 3) / TILE_TOTALS - SIDES + 1)

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
  int kind, paired, followed;  // followed: rows of a second matrix come behind the first's
  uint zero;  // as the compiler cannot know
  int tiles, round_tiles;
  int first, last;
  int piece0;  // the first of a row that is the work-group's
  int pieces;  // the end of those
  int span;    // pieces of each of its spans; the last may have fewer
  int K;       // of a weight row; of down, from one act to the next
  int N;       // rows of the first matrix
  const global uchar *codes, *side, *codes2, *side2;
  const local expert_rows_t* list;
  int experts, list_end;  // list_end: this lane's expert's
} job_t;

typedef struct {
  int lane, warp, g, c;
} lane_t;

INLINE lane_t this_lane(void) {
  const int lid = (int)get_local_id(0);
  const lane_t at = {lid % 32, lid / 32, lid % 32 / 4, lid % 4};
  return at;
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
      const int other = j->paired ? r : j->followed && row >= j->N;
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

INLINE int span_of(int pieces) {
  if (pieces <= SPAN_PIECES) return (pieces + 256 / PIECE - 1) / (256 / PIECE) * (256 / PIECE);
  const int spans = max((pieces + SPAN_PIECES - 1) / SPAN_PIECES, 1);
  const int runs = (pieces + spans * (256 / PIECE) - 1) / (spans * (256 / PIECE));
  return runs * (256 / PIECE);
}

// Where a warp is: at piece `b` of the span from piece `span0` on of a row, of tile `tile` of the
// round from tile `begin` on; `left` pieces of round and span are the warp's, this one among them.
typedef struct {
  int begin, span0, tile, b, left;
} walk_t;

// The first piece of a side of a round with `all` pieces in a span.
INLINE int side_begin(int all, int side) { return (int)((uint)(all * side) / SIDES); }

INLINE int round_pieces(const job_t* j, int begin) {
  return min(j->round_tiles, j->tiles - begin) * j->span;
}

// a / b and the rest, of numbers below 2^23.
INLINE int2 divided(int a, int b) {
  int2 d;
  d.x = (int)((float)a * native_recip((float)b));
  d.y = a - d.x * b;
  if (d.y < 0) {
    --d.x;
    d.y += b;
  }
  if (d.y >= b) {
    ++d.x;
    d.y -= b;
  }
  return d;
}

INLINE void enter_span(walk_t* w, const job_t* j, int begin, int span0, lane_t lane) {
  const int side = lane.warp / SIDE_WARPS;
  const int all = round_pieces(j, begin);
  const int first = side_begin(all, side) + lane.warp % SIDE_WARPS;
  const int end = side_begin(all, side + 1);
  w->begin = begin;
  w->span0 = span0;
  w->left = (int)((uint)max(end - first + SIDE_WARPS - 1, 0) / SIDE_WARPS);
  const int2 at = divided(first, j->span);
  w->tile = begin + at.x;
  w->b = at.y;
}

// To the next piece, where there is one in the span.
INLINE void step_walk(walk_t* w, const job_t* j) {
  --w->left;
  w->b += SIDE_WARPS;
  while (w->b >= j->span) {
    w->b -= j->span;
    ++w->tile;
  }
}

// Of a warp's loads, at the last piece that is under way. Those of its row before piece `same` of
// the span follow in the same memory.
typedef struct {
  walk_t walk;
  place_t at;
  int same;
  int on;  // whether there is a piece
} loader_t;

// `come` is 0, but known only when what must come before is there.
INLINE void place_loader(loader_t* l, const job_t* j, uint come, lane_t lane) {
  const walk_t* const w = &l->walk;
  const int piece = min(w->span0 + w->b, j->pieces - 1);
  place_piece(&l->at, j, w->tile, piece + (int)come, lane);
  l->same = j->span;
  if (j->kind == JOB_DOWN) l->same = min(j->list[expert_of(j, piece)].end - w->span0, j->span);
}

// From spans without pieces of this warp to the next one that has some.
INLINE void settle_loader(loader_t* l, const job_t* j, uint come, lane_t lane) {
  walk_t* const w = &l->walk;
  l->on = 0;
  while (w->left == 0) {
    int begin = w->begin;
    int span0 = w->span0 + j->span;
    if (span0 >= j->pieces) {
      span0 = j->piece0;
      begin += j->round_tiles;
    }
    if (begin >= j->tiles) return;
    enter_span(w, j, begin, span0, lane);
  }
  place_loader(l, j, come, lane);
  l->on = w->span0 + w->b < j->pieces;
}

INLINE void next_load(loader_t* l, const job_t* j, uint come, lane_t lane) {
  walk_t* const w = &l->walk;
  if (w->left > 1 && w->b + SIDE_WARPS < l->same) {
    --w->left;
    w->b += SIDE_WARPS;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      l->at.codes[r] += SIDE_WARPS * 128 + come;
      l->at.side[r] += SIDE_WARPS * PIECE_SIDE + come;
    }
    l->on = w->span0 + w->b < j->pieces;
    return;
  }
  if (w->left > 0) step_walk(w, j);
  settle_loader(l, j, come, lane);
}

#endif
