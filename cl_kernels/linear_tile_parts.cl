// y[t, h, n] (+)= sum_k x[t, h, k] w[h * head_rows + row0 + n, k] as in linear.cl, in f32, for many
// rows: the classic product of tiles.
//
//   linear_tile_<TILE_T>x<TILE_N>
//       global (ceil(N / TILE_N) * 256, ceil(T / TILE_T), heads)   local (256, 1, 1)
//
// A work-item has 8 x 8 sums, so that it does 64 products for 16 values of local memory. A narrow
// tile's work-items share K: split s takes every KSPLIT-th run of the columns in local memory, and
// at the end the shares are added up. The next columns are on their way to registers while these
// are multiplied, and then go to the other half of the local memory.
//   In local memory a column is a run of TILE_T values (or TILE_N), the row's place turned by
// SWIZZLE for each eight columns, so that neither the items that write eight columns of a row each
// nor those that read four rows of a column meet in a bank.
#define TILE_ITEMS 256
#define TILE_POOL 8192

// What a work-item brings: eight columns of a row of x and of one of w.
typedef struct {
  const global float* x;
  long x_at;
  matrix_t w;
  long n, n_end;
  int x_aligned, w_aligned;
} tile_from_t;

// Rows ty * 4 + i and those half a tile further, columns tx * 4 + j and those half a tile further.
typedef struct {
  int split, ty, tx;
} tile_item_t;

// 32 neighbours are 4 x 8 items of one share.
INLINE tile_item_t tile_item(const int wide, const int ksplit) {
  const int warps = 8 / ksplit;
  const int lid = (int)get_local_id(0);
  const int warp = lid / 32 % warps;
  tile_item_t at;
  at.split = lid / 32 / warps;
  at.ty = warp / wide * 4 + lid % 32 / 8;
  at.tx = warp % wide * 8 + lid % 8;
  return at;
}

INLINE void put_four(global float* y, float4 v, long n, long N, int aligned, int accumulate) {
  if (n + 4 <= N) {
    store4(accumulate ? load4(y + n, aligned) + v : v, y + n, aligned);
    return;
  }
  if (n < N) put(y + n, v.x, accumulate);
  if (n + 1 < N) put(y + n + 1, v.y, accumulate);
  if (n + 2 < N) put(y + n + 2, v.z, accumulate);
}

// Rows t + i and t + tt + i, columns n + j and n + nn + j.
INLINE void put_tile_sums(const linear_t* a, const float* sum, global float* y, long t, int tt,
                          long n, int nn) {
  const int aligned = a->y_offset % 4 == 0 && a->y_stride % 4 == 0 && a->y_head_stride % 4 == 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const long row = t + i / 4 * tt + i % 4;
    if (row >= a->T) continue;
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      put_four(y + row * a->y_stride, vload4(0, sum + i * 8 + j), n + j / 4 * nn, a->N, aligned,
               (int)a->accumulate);
    }
  }
}
