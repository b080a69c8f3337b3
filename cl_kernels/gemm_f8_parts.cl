// Parts of gemm_f8_wgmma.cl and gemm_f8_mma.cl: y = x w^T, x and w in FP8 (e4m3), x as e4m3_fragments
// leaves it, w with an f32 scale for each 128 x 128. The matrix units add up 128 columns; f32 sums
// in registers take these with both scales (e4m3 in the matrix units has few bits for its sums).
//
// A work-group of 256 items has a tile of 128 rows of w: with SwiGLU 64 of gate, then 64 of up, so
// that a work-item has both of an output. Steps are of 128 columns; local memory holds weights
// alone, as rows of 128 bytes swizzled by 128 bytes, two steps of them.
#if NV_COMPUTE >= 89
#define F8_COLUMNS 128  // as in e4m3.cl
#define F8_STEP_BYTES 16384

// Where a block of 16 rows of x lies, counted in pieces of 128 columns; rows beyond T are those of
// the last block.
INLINE uint f8_pieces(int T, int steps, int block) {
  return (uint)min(block, (T + 15) / 16 - 1) * (uint)steps;
}

// A block's columns of a step, as fragments of this lane's warp, and its two rows' scales.
INLINE void f8_load_x(uint4* a, float* row_scales, const global float* x, const global float* scales,
                      uint piece) {
  const uint lane = (uint)get_local_id(0) % 32;
  const global uint4* const codes = (const global uint4*)x + (ulong)(piece * 128 + lane);
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = codes[i * 32];
  row_scales[0] = scales[piece * 16 + lane / 4];
  row_scales[1] = scales[piece * 16 + lane / 4 + 8];
}

// What a work-item loads of x for 16 rows: of fragments `codes[0]` and `scales[0]` of the block; of
// rows as e4m3_rows leaves them, `gathered`, both of its rows'.
typedef struct {
  const global uint4* codes[2];
  const global float* scales[2];
} f8_rows_t;

INLINE void f8_load_rows(uint4* a, float* row_scales, const f8_rows_t* x, int step,
                         const int gathered) {
  if (gathered) {
    const uint4 low[2] = {x->codes[0][step * 8], x->codes[1][step * 8]};
    const uint4 high[2] = {x->codes[0][step * 8 + 4], x->codes[1][step * 8 + 4]};
    a[0] = (uint4)(low[0].x, low[1].x, low[0].y, low[1].y);
    a[1] = (uint4)(low[0].z, low[1].z, low[0].w, low[1].w);
    a[2] = (uint4)(high[0].x, high[1].x, high[0].y, high[1].y);
    a[3] = (uint4)(high[0].z, high[1].z, high[0].w, high[1].w);
    row_scales[0] = x->scales[0][step];
    row_scales[1] = x->scales[1][step];
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = x->codes[0][step * 128 + i * 32];
    row_scales[0] = x->scales[0][step * 16];
    row_scales[1] = x->scales[0][step * 16 + 8];
  }
}

// Both halves of the tile, and what a work-item loads of them: 16 columns of rows lid / 8 and 32 on.
typedef struct {
  const global uchar* at[2];
  const global float* scales[2];
  uint offset;  // the matrix has less than 2^32 bytes
  int rows;     // of the matrix, from there
  int apart;    // rows from half to half
} f8_weights_t;

INLINE void f8_load_weights(uint to, const f8_weights_t* w, int step, int K) {
  const int k = step * F8_COLUMNS;
  const int in = k + (int)get_local_id(0) % 8 * 16 < K;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i % 2 * 32 + i / 2 * w->apart;
    const uint offset = w->offset + (uint)k + (uint)(i % 2 * 32) * (uint)K;
    cp_async16(to + i * 4096, w->at[i / 2] + (ulong)offset, in && row < w->rows ? 16 : 0);
  }
  cp_async_commit();
}

INLINE uint f8_swizzled(uint row, uint chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// `ROWS` of x, and `PER_ROW` work-items for each row of w in what they load at a time.
#define F8_TILE(ROWS, PER_ROW)                                                                     \
  const int lid = (int)get_local_id(0);                                                            \
  const int lane = lid % 32;                                                                       \
  const int warp = lid / 32;                                                                       \
  const int swiglu = mode == MODE_SWIGLU;                                                          \
  const int columns = swiglu ? 64 : 128;                                                           \
  const int2 at =                                                                                  \
      tile_of((int)get_group_id(0), (T + ROWS - 1) / ROWS, (N + columns - 1) / columns);           \
  const int n0 = at.y * columns;                                                                   \
  const int steps = (K + F8_COLUMNS - 1) / F8_COLUMNS;                                             \
  const global float* const x_at = (const global float*)(x + x_offset * 4);                        \
  const global float* const x_scales =                                                             \
      x_at + (long)((T + 15) / 16) * steps * (16 * F8_COLUMNS / 4);                                \
  const long blocks = (long)(n0 / 128) * steps;                                                    \
  f8_weights_t weights;                                                                            \
  weights.at[0] = w + codes;                                                                       \
  weights.at[1] = swiglu ? w2 + codes2 : w + codes + 64ul * (ulong)K;                              \
  weights.scales[0] = (const global float*)(w + side) + blocks;                                    \
  weights.scales[1] = swiglu ? (const global float*)(w2 + side2) + blocks : weights.scales[0];     \
  weights.offset = (uint)(n0 + lid / PER_ROW) * (uint)K + (uint)(lid % PER_ROW * 16);              \
  weights.rows = N - n0 - lid / PER_ROW;                                                           \
  weights.apart = swiglu ? 0 : 64

// Two outputs of columns n, n + 1 of row `to`; u, with SwiGLU, those of up.
INLINE void f8_store(global float* to, int n, int N, const float* v, const float* u, int mode,
                     int even) {
  if (mode == MODE_STORE) {
    store2(to, n, N, v[0], v[1], even);
  } else if (mode == MODE_ADD) {
    add2(to, n, N, v[0], v[1]);
  } else if (mode == MODE_BF16) {
    store2_bf16(to, n, N, v[0], v[1]);
  } else {
    store2(to, n, N, quick_silu(v[0]) * u[0], quick_silu(v[1]) * u[1], even);
  }
}

// 16 rows of 128 columns, of which this work-item has rows t and t + 8: `sums` by half and eight
// columns.
INLINE void f8_store_half(float (*sums)[32], global float* y, long y_stride, int t, int n0, int T,
                          int N, int mode, int even) {
  const int column = (int)get_local_id(0) % 4 * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    global float* const to = y + (t + h * 8) * y_stride;
    if (t + h * 8 < T) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float* const v = &sums[i / 8][i % 8 * 4 + h * 2];
        const float* const u = &sums[1][i % 8 * 4 + h * 2];
        if (mode != MODE_SWIGLU || i < 8) f8_store(to, n0 + i * 8 + column, N, v, u, mode, even);
      }
    }
  }
}
#endif  // NV_COMPUTE
