// Parts of gemm_tile.cl: y = x w^T on matrix units, for NVIDIA's compute capability 8.0 and above:
// 256 work-items are eight warps, MW of them along the rows of x, and a warp keeps MT x NT
// fragments of 16 x 8 sums. Both operands lie in local memory as rows of 16 or 32 bf16 whose
// 16-byte chunks are swapped so that ldmatrix meets every bank once:
//   rows of 16 : chunk c of row r lies at c ^ (r / 4 % 2)      rows of 32 : at c ^ (r / 2 % 4)
// Row r of the weights' tile is a weight row, as tile_weight says; x arrives in bf16.
#define GEMM_ITEMS 256
#define WARPS 8
#ifndef MW
#define MW 2
#define TILE_ROWS 128
#endif
#define TILE_BYTES 40960
// The shapes of a whole tile and of one with at most half its rows.
#ifdef TILE_WGMMA
#define WHOLE_TILE(name) name##_1x16
#define HALF_TILE(name) name##_1x8
#else
#define WHOLE_TILE(name) name##_4x4
#define HALF_TILE(name) name##_2x4
#endif
#if WTYPE == WTYPE_BF16
#define NARROW_STAGES 5
#define X_ITEMS 2  // work-items that load one row of x in a step
#else
#define NARROW_STAGES 3
#define X_ITEMS 4
#endif

// The order of columns that gemm_turned.cl wants of x, in blocks of 64 or 256 columns, of which a
// step takes 64: where work-item c's 16 columns of step s begin, and the column at a place.
INLINE int turned_run(int c, int s, int columns) {
  return columns == 64 ? 16 * c : 64 * c + s % 2 * 32 + s / 2 * 16;
}
INLINE int turned_column(int place, int columns) {
  const int at = place % columns;
  return place - at + turned_run(at / 2 % 4, at / 64, columns) + at / 16 % 4 * 4 + at / 8 % 2 * 2 +
         at % 2;
}

#if NV_COMPUTE >= 80

INLINE uint swizzled16(uint row, uint chunk) { return row * 32 + ((chunk ^ (row >> 2 & 1)) << 4); }
INLINE uint swizzled32(uint row, uint chunk) { return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4); }

// Where a warp's fragments begin in the two tiles, for rows of 16 or 32 values.
INLINE uint x_fragment(uint lane, uint row0, const int columns) {
  const uint row = row0 + lane % 16;
  return columns == 16 ? swizzled16(row, lane / 16) : swizzled32(row, lane / 16);
}
INLINE uint w_fragment(uint lane, uint row0, const int columns) {
  const uint row = row0 + lane % 8 + lane / 16 * 8;
  return columns == 16 ? swizzled16(row, lane / 8 % 2) : swizzled32(row, lane / 8 % 2);
}

#define SCALED_SUMS (WTYPE == WTYPE_F8 && !FOLD_SCALES)

// What a work-item loads of the weights' tile, and the scales of its warp's columns.
typedef struct {
  const global float* at[2];
  float unit[2];
  float next[2];
} scales_t;
typedef struct {
  weight_row_t row[2];
  scales_t scales;  // FP8
} w_items_t;

// Steps that the loads of weights run ahead where they pass through registers.
#if SCALED_SUMS
#define AHEAD 4
#elif WTYPE == WTYPE_F32
#define AHEAD 1
#else
#define AHEAD 2
#endif
// A matrix [rows, K] in a buffer.
typedef struct {
  const global uchar* buffer;
  ulong codes;
  ulong side;
} weights_t;

// Row r of the weights' tile is row n of the first matrix or, in the second half of each warp's
// columns, of the second: so a work-item has gate and up of the same element in its registers.
typedef struct {
  int second;
  int n;
} tile_row_t;

INLINE tile_row_t tile_weight(int r, int pairs, const int NT) {
  tile_row_t at;
  const int columns = NT * 8;
  at.second = pairs && r % columns >= columns / 2;
  at.n = pairs ? r / columns * (columns / 2) + r % (columns / 2) : r;
  return at;
}

// A division of floats is a call, around which the compiler lets every wgmma wait for the one
// before.
INLINE float quick_silu(float v) { return v * native_recip(1.0f + native_exp(-v)); }

INLINE void store2(global float* y, int n, int N, float v0, float v1, int even) {
  if (even && n + 1 < N) {
    *(global float2*)(y + n) = (float2)(v0, v1);
  } else {
    if (n < N) y[n] = v0;
    if (n + 1 < N) y[n + 1] = v1;
  }
}
INLINE void store2_bf16(global float* y, int n, int N, float v0, float v1) {
  if (n < N) ((global uint*)y)[n / 2] = bf16_pair(v0, v1);
}
INLINE void add2(global float* y, int n, int N, float v0, float v1) {
  if (n < N) y[n] += v0;
  if (n + 1 < N) y[n + 1] += v1;
}

#define MODE_STORE 0
#define MODE_ADD 1
#define MODE_SWIGLU 2
#define MODE_BF16 3  // as MODE_STORE, in bf16: y_stride is half as many floats, N is even

// As ExpertEntry and ExpertTile of args.h.
typedef struct {
  ulong gate, gate_side;
  ulong up, up_side;
  ulong down, down_side;
  int slab;
  int F;
} expert_t;
typedef struct {
  int expert, first_pair, n_pairs, reserved;
} expert_tile_t;

// Tiles run down eight rows of tiles before they move on to the next column: what runs at one time
// shares both operands in the cache.
#define ROWS_OF_TILES 8
INLINE int2 tile_of(int group, int row_tiles, int column_tiles) {
  const int band = group / (ROWS_OF_TILES * column_tiles);
  const int first = band * ROWS_OF_TILES;
  const int rows = min(ROWS_OF_TILES, row_tiles - first);
  const int in_band = group - band * ROWS_OF_TILES * column_tiles;
  return (int2)(first + in_band % rows, in_band / rows);
}

#define LINEAR_ARGS                                                                      \
  const global uchar *x, long x_offset, const global uchar *w, ulong codes, ulong side,  \
      const global uchar *w2, ulong codes2, ulong side2, global float *y, long y_offset, \
      long y_stride, int T, int N, int K, int mode

#define EXPERT_ARGS                                                                                \
  const global uchar *slab_a, const global uchar *slab_b, int slab_index, const global int *table, \
      long table_offset, const global int *tile_list, long tiles_offset,                           \
      const global int *n_tiles, long n_tiles_at

#define LINEAR_TILE(SHAPE)                                                                    \
  SHAPE(linear_tile)                                                                          \
  (tiles, from, x_row, first, second, to, y_stride, even, rows, n0, N, K, mode)

#define LINEAR_GROUP(NT)                                                                           \
  local uchar tiles[TILE_BYTES] __attribute__((aligned(1024)));                                    \
  const int columns = WARPS / MW * NT * 8 / (mode == MODE_SWIGLU ? 2 : 1);                         \
  const int2 at =                                                                                  \
      tile_of((int)get_group_id(0), (T + TILE_ROWS - 1) / TILE_ROWS, (N + columns - 1) / columns); \
  const int rows = T - at.x * TILE_ROWS;                                                           \
  const int n0 = at.y * columns;                                                                   \
  const long x_row = K * 2;                                                                        \
  const weights_t first = {w, codes, side};                                                        \
  const weights_t second = {w2, codes2, side2};                                                    \
  const global uchar* const from = x + x_offset * 4 + (long)at.x * TILE_ROWS * x_row;              \
  global float* const to = y + y_offset + at.x * TILE_ROWS * y_stride;                             \
  const int even = y_offset % 2 == 0 && y_stride % 2 == 0

#if WTYPE != WTYPE_BF16
INLINE run16_t fetch_step(weight_row_t row, int step, int K) {
  const int k = step * 32 + (int)get_local_id(0) % 2 * 16;
  return k < K ? fetch16(row, k) : zeros16();
}

INLINE void store_step(local uchar* tile, run16_t run, int step, const int i) {
  const uint lid = (uint)get_local_id(0);
  const uint row = lid / 2 + 128 * i;
  const uint chunk = lid % 2 * 2;
  uint w[8];
  decode16(run, step * 32 + (int)(lid % 2) * 16, w);
  *(local uint4*)(tile + swizzled32(row, chunk)) = (uint4)(w[0], w[1], w[2], w[3]);
  *(local uint4*)(tile + swizzled32(row, chunk + 1)) = (uint4)(w[4], w[5], w[6], w[7]);
}

INLINE void begin_scales(scales_t* s) {
  for (int h = 0; h < 2; ++h) {
    s->unit[h] = 1.0f;
    s->next[h] = s->at[h][0];
  }
}
#endif

#endif  // NV_COMPUTE
