// The part of linear_batch_parts.cl that depends on TILES and EIGHTS: the host puts this text into
// the program once for each pair of them.
#undef CHUNK
#undef POOL_EIGHTHS
#define CHUNK (CHUNK_EIGHTHS / EIGHTS)  // columns of x in local memory at a time
#if TILES * EIGHTS > 8
#define POOL_EIGHTHS (TILES * EIGHTS * 256)  // the sums at the end
#else
#define POOL_EIGHTHS (2 * CHUNK_EIGHTHS)
#endif
#ifndef BATCH
#define BATCH_PASTED(name, tiles, eights) name##_##tiles##x##eights
#define BATCH_EXPANDED(name, tiles, eights) BATCH_PASTED(name, tiles, eights)
#define BATCH(name) BATCH_EXPANDED(name, TILES, EIGHTS)
#endif

#if NV_COMPUTE >= 80

// The weight rows of a work-item: g and g + 8 of each tile of its warp, and the tiles' scales.
typedef struct {
  weight_row_t row[2 * TILES];
  const global float* scale[TILES];  // FP8
} BATCH(batch_rows_t);

// SwiGLU: of a work-group's tiles every other one is of the second matrix.
INLINE void BATCH(pick_batch_rows)(BATCH(batch_rows_t) * rows, const linear_t* a,
                                   const global uchar* w, const global uchar* w2, int second,
                                   int first, int row_warp) {
  const int g = (int)get_local_id(0) % 32 / 4;
#pragma unroll
  for (int m = 0; m < TILES; ++m) {
    const int q = row_warp * TILES + m;
    const int other = a->swiglu ? q % 2 : second;
    const int tile = first + (a->swiglu ? q / 2 : q) * 16;
    const int last = (int)(other ? a->N2 : a->N) - 1;
    const global uchar* const buffer = other ? w2 : w;
    const ulong codes = other ? a->w2_offset : a->w_offset;
    const ulong side = other ? a->w2_side : a->w_side;
    const long all = other ? a->w2_rows : a->w_rows;
    rows->row[2 * m] = weight_row(buffer, codes, side, all, min(tile + g, last), a->K);
    rows->row[2 * m + 1] = weight_row(buffer, codes, side, all, min(tile + g + 8, last), a->K);
    rows->scale[m] =
        (const global float*)(buffer + side) + min(tile, last) / 128 * ((a->K + 127) / 128);
  }
}

// What a work-item multiplies in a step of one tile.
typedef struct {
  unit_t low, high;
#if WTYPE == WTYPE_F8
  float scale;
#endif
} BATCH(batch_step_t);

INLINE void BATCH(load_step)(BATCH(batch_step_t) * s, const BATCH(batch_rows_t) * rows, const int m,
                             int step, int K) {
  const int k = unit_column(step, (int)get_local_id(0) % 4);
  s->low = load_batch_unit(rows->row[2 * m], k, K);
  s->high = load_batch_unit(rows->row[2 * m + 1], k, K);
#if WTYPE == WTYPE_F8
  s->scale = rows->scale[m][min(step * STEP, K - 1) / 128];
#endif
}

// acc += the products of one part of a tile; xs is this lane's first 16 bytes of x for it.
INLINE void BATCH(multiply_part)(float* acc, const uint* low, const uint* high,
                                 const local uint4* xs) {
#pragma unroll
  for (int e = 0; e < RUN / 8; ++e) {
    uint4 x[EIGHTS];
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n) x[n] = xs[n * CHUNK + e * 32];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int i = 4 * e + 2 * j;
      const uint fragment[4] = {low[i], high[i], low[i + 1], high[i + 1]};
#pragma unroll
      for (int n = 0; n < EIGHTS; ++n) {
        mma_bf16(acc + 4 * n, fragment, j == 0 ? x[n].x : x[n].z, j == 0 ? x[n].y : x[n].w);
      }
    }
  }
}

// acc += the products of step `step`; a tile's units make room for those of step `then` as soon as
// they are decoded.
INLINE void BATCH(add_step)(float* acc, BATCH(batch_step_t) * s, const BATCH(batch_rows_t) * rows,
                            int step, int then, const local uint4* xs, int K) {
  const int k = unit_column(step, (int)get_local_id(0) % 4);
#pragma unroll
  for (int m = 0; m < TILES; ++m) {
#if WTYPE == WTYPE_F8
    const float scale = s[m].scale;
    float sums[EIGHTS * 4] = {0.0f};
#else
    float* const sums = acc + m * EIGHTS * 4;
#endif
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      uint low[RUN / 2], high[RUN / 2];
      decode_unit(s[m].low, k, part, low);
      decode_unit(s[m].high, k, part, high);
      if (part == PARTS - 1) {
        BATCH(load_step)(s + m, rows, m, then, K);
        keep_loads_here();
      }
      BATCH(multiply_part)(sums, low, high, xs + part * (RUN / 8 * 32));
    }
#if WTYPE == WTYPE_F8
#pragma unroll
    for (int i = 0; i < EIGHTS * 4; ++i) {
      acc[m * EIGHTS * 4 + i] = fma(scale, sums[i], acc[m * EIGHTS * 4 + i]);
    }
#endif
  }
}

// Zeros beyond the rows of x and beyond K.
INLINE void BATCH(fetch_x)(float8* v, const batch_x_t* x, int chunk) {
#pragma unroll
  for (int i = 0; i < X_EIGHTHS; ++i) {
    const int at = i * 256 + (int)get_local_id(0);
    const int t = at / (CHUNK / 8);
    const int k = chunk * CHUNK + at % (CHUNK / 8) * 8;
    v[i] = t < x->rows && k < x->K ? load8(x->x + t * x->stride + k, x->aligned) : (float8)(0.0f);
  }
}

INLINE void BATCH(store_x)(local uint4* to, const float8* v) {
#pragma unroll
  for (int i = 0; i < X_EIGHTHS; ++i) {
    const int at = i * 256 + (int)get_local_id(0);
    const int t = at / (CHUNK / 8);
    const int place = t / 8 * CHUNK + t % 8 * 4;
    to[place + eighth_place(at % (CHUNK / 8))] =
        (uint4)(bf16_pair(v[i].s0, v[i].s1), bf16_pair(v[i].s2, v[i].s3),
                bf16_pair(v[i].s4, v[i].s5), bf16_pair(v[i].s6, v[i].s7));
  }
}

// The sums over all of K of a warp's tiles, each warp of `ksplit` its share. The next chunk of x is
// on its way while this one is multiplied.
INLINE void BATCH(batch_sums)(float* acc, local uint4* pool, const BATCH(batch_rows_t) * rows,
                              const batch_x_t* x, int ksplit) {
  const int lane = (int)get_local_id(0) % 32;
  const int share = (int)get_local_id(0) / 32 % ksplit;
  const int steps = (x->K + STEP - 1) / STEP;
  const int chunks = (x->K + CHUNK - 1) / CHUNK;
  const int turns = CHUNK / STEP / ksplit;  // steps of a warp in a chunk
  BATCH(batch_step_t) ahead[TILES];
  float8 v[X_EIGHTHS];
#pragma unroll
  for (int m = 0; m < TILES; ++m) BATCH(load_step)(ahead + m, rows, m, share, x->K);
#pragma unroll
  for (int i = 0; i < TILES * EIGHTS * 4; ++i) acc[i] = 0.0f;
  BATCH(fetch_x)(v, x, 0);
  BATCH(store_x)(pool, v);
  int step = share;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (chunk + 1 < chunks) BATCH(fetch_x)(v, x, chunk + 1);
    const local uint4* xs =
        pool + chunk % 2 * CHUNK_EIGHTHS + share * (PARTS * (RUN / 8) * 32) + lane;
    for (int turn = 0; turn < turns && step < steps; ++turn) {
      BATCH(add_step)(acc, ahead, rows, step, step + ksplit, xs, x->K);
      step += ksplit;
      xs += ksplit * (PARTS * (RUN / 8) * 32);
    }
    if (chunk + 1 < chunks) BATCH(store_x)(pool + (chunk + 1) % 2 * CHUNK_EIGHTHS, v);
  }
}

// A warp's sums, to where rows of y are together: [warp][tile of 16][row of x][row of weights].
INLINE void BATCH(share_sums)(local float* totals, const float* acc) {
  const int lane = (int)get_local_id(0) % 32;
  local float* const mine = totals + (int)get_local_id(0) / 32 * (TILES * EIGHTS * 128);
#pragma unroll
  for (int m = 0; m < TILES; ++m) {
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        mine[(m * EIGHTS * 8 + n * 8 + lane % 4 * 2 + i % 2) * 16 + lane / 4 + i / 2 * 8] =
            acc[(m * EIGHTS + n) * 4 + i];
      }
    }
  }
}

// The total of row `row` of tile q of the work-group, for row t of x.
INLINE float BATCH(batch_total)(const local float* totals, int q, int t, int row, int ksplit) {
  const local float* from = totals + q / TILES * ksplit * (TILES * EIGHTS * 128) +
                            (q % TILES * EIGHTS * 8 + t) * 16 + row;
  float total = from[0];
  for (int s = 1; s < ksplit; ++s) total += from[s * (TILES * EIGHTS * 128)];
  return total;
}

INLINE void BATCH(put_batch)(const linear_t* a, const local float* totals, global float* y,
                             global float* y2, int t0, int second, int first, int outputs) {
  const int ksplit = (int)a->ksplit;
  const int rows = (int)min(a->T - t0, (long)(EIGHTS * 8));
  const int end = (int)(second ? a->N2 : a->N);
  for (int o = (int)get_local_id(0); o < outputs * rows; o += 256) {
    const int t = o / outputs;
    const int i = o % outputs;
    if (first + i >= end) continue;
    float v;
    if (a->swiglu) {
      v = silu(BATCH(batch_total)(totals, i / 16 * 2, t, i % 16, ksplit)) *
          BATCH(batch_total)(totals, i / 16 * 2 + 1, t, i % 16, ksplit);
    } else {
      v = BATCH(batch_total)(totals, i / 16, t, i % 16, ksplit);
    }
    if (second) {
      y2[a->y2_offset + (t0 + t) * a->y2_stride + first + i] = v;
    } else {
      put(y + a->y_offset + (t0 + t) * a->y_stride + first + i, v, (int)a->accumulate);
    }
  }
}

// Work-groups with the same weights follow each other, so that one reads them from memory and the
// others from the cache.
kernel void BATCH(linear_batch)(const global float* x, const global uchar* w,
                                const global uchar* w2, global float* y, global float* y2,
                                linear_t a) {
  local uint4 pool[POOL_EIGHTHS];
  const int row_warp = (int)get_local_id(0) / 32 / (int)a.ksplit;
  const int outputs = 128 * TILES / (int)a.ksplit / (a.swiglu ? 2 : 1);
  const int blocks = (int)((a.N + outputs - 1) / outputs);
  const int parts = ((int)a.T + EIGHTS * 8 - 1) / (EIGHTS * 8);
  const int block = (int)get_group_id(0) / parts;
  const int second = block >= blocks;
  const int first = (block - (second ? blocks : 0)) * outputs;
  const int t0 = (int)get_group_id(0) % parts * (EIGHTS * 8);
  BATCH(batch_rows_t) rows;
  BATCH(pick_batch_rows)(&rows, &a, w, w2, second, first, row_warp);
  batch_x_t from;
  from.x = x + a.x_offset + t0 * a.x_stride;
  from.stride = a.x_stride;
  from.aligned = (int)a.x_aligned;
  from.rows = (int)(a.T - t0);
  from.K = (int)a.K;
  float acc[TILES * EIGHTS * 4];
  BATCH(batch_sums)(acc, pool, &rows, &from, (int)a.ksplit);
  barrier(CLK_LOCAL_MEM_FENCE);
  BATCH(share_sums)((local float*)pool, acc);
  barrier(CLK_LOCAL_MEM_FENCE);
  BATCH(put_batch)(&a, (const local float*)pool, y, y2, t0, second, first, outputs);
}

#endif  // NV_COMPUTE >= 80
