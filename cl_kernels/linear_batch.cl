// The part of linear_batch_parts.cl that depends on TILES, the eights of rows of x at once: the host
// puts this text into the program once for each.
#undef CHUNK
#define CHUNK (1024 / TILES)  // columns of x in local memory at a time
#ifndef BATCH
#define BATCH_PASTED(name, tiles) name##_##tiles
#define BATCH_EXPANDED(name, tiles) BATCH_PASTED(name, tiles)
#define BATCH(name) BATCH_EXPANDED(name, TILES)
#endif

#if NV_COMPUTE >= 80

// acc += the products of a step; xs is this lane's first 16 bytes of the step.
INLINE void BATCH(add_batch_step)(float* acc, const batch_step_t* s, int k, const local uint4* xs) {
#pragma unroll
  for (int part = 0; part < PARTS; ++part) {
#pragma unroll
    for (int m = 0; m < PAIR; ++m) {
      uint low[RUN / 2], high[RUN / 2];
      decode_unit(s->unit[2 * m], k, part, low);
      decode_unit(s->unit[2 * m + 1], k, part, high);
#if WTYPE == WTYPE_F8
      float sums[16] = {0.0f};
#else
      float* const sums = acc + m * TILES * 4;
#endif
#pragma unroll
      for (int e = 0; e < EIGHTHS; ++e) {
        uint4 x[4];
#pragma unroll
        for (int n = 0; n < TILES; ++n) x[n] = xs[n * CHUNK + (part * EIGHTHS + e) * 32];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int i = 4 * e + 2 * j;
          const uint fragment[4] = {low[i], high[i], low[i + 1], high[i + 1]};
#pragma unroll
          for (int n = 0; n < TILES; ++n) {
            mma_bf16(sums + 4 * n, fragment, j == 0 ? x[n].x : x[n].z, j == 0 ? x[n].y : x[n].w);
          }
        }
      }
#if WTYPE == WTYPE_F8
#pragma unroll
      for (int i = 0; i < TILES * 4; ++i) {
        acc[m * TILES * 4 + i] = fma(s->scale[m], sums[i], acc[m * TILES * 4 + i]);
      }
#endif
    }
  }
}

// Zeros beyond the rows of x and beyond K.
INLINE void BATCH(fetch_x)(float8* v, const batch_x_t* x, int chunk, int round) {
#pragma unroll
  for (int i = 0; i < X_AT_ONCE; ++i) {
    const int at = (round * X_AT_ONCE + i) * 256 + (int)get_local_id(0);
    const int t = at / (CHUNK / 8);
    const int k = chunk * CHUNK + at % (CHUNK / 8) * 8;
    v[i] = t < x->rows && k < x->K ? load8(x->x + t * x->stride + k, x->aligned) : (float8)(0.0f);
  }
}

INLINE void BATCH(store_x)(local uint4* to, const float8* v, int round) {
#pragma unroll
  for (int i = 0; i < X_AT_ONCE; ++i) {
    const int at = (round * X_AT_ONCE + i) * 256 + (int)get_local_id(0);
    const int t = at / (CHUNK / 8);
    const int place = t / 8 * CHUNK + t % 8 * 4;
    to[place + eighth_place(at % (CHUNK / 8))] =
        (uint4)(bf16_pair(v[i].s0, v[i].s1), bf16_pair(v[i].s2, v[i].s3),
                bf16_pair(v[i].s4, v[i].s5), bf16_pair(v[i].s6, v[i].s7));
  }
}

// The sums over all of K of a warp's two tiles, each warp of `ksplit` its share. The next chunk of x
// is on its way while the first steps of this one are multiplied.
INLINE void BATCH(batch_sums)(float* acc, local uint4* pool, const batch_rows_t* rows, const batch_x_t* x,
                       int ksplit) {
  const int lane = (int)get_local_id(0) % 32;
  const int part = (int)get_local_id(0) / 32 % ksplit;
  const int steps = (x->K + STEP - 1) / STEP;
  const int chunks = (x->K + CHUNK - 1) / CHUNK;
  const int turns = CHUNK / STEP / ksplit;  // steps of a warp in a chunk
  batch_step_t ahead[BATCH_AHEAD];
  float8 v[X_AT_ONCE];
#pragma unroll
  for (int i = 0; i < BATCH_AHEAD; ++i) ahead[i] = load_batch_step(rows, i * ksplit + part, x->K);
#pragma unroll
  for (int i = 0; i < PAIR * TILES * 4; ++i) acc[i] = 0.0f;
  for (int round = 0; round < 2; ++round) {
    BATCH(fetch_x)(v, x, 0, round);
    BATCH(store_x)(pool, v, round);
  }
  int turn = 0;
  int chunk = 0;
  for (int i0 = 0; i0 < chunks * turns; i0 += BATCH_AHEAD) {
#pragma unroll
    for (int i = 0; i < BATCH_AHEAD; ++i) {
      if (i0 + i < chunks * turns) {
        const int step = (i0 + i) * ksplit + part;
        local uint4* const next = pool + (chunk + 1) % 2 * CHUNK_EIGHTHS;
        const int fetches = turn < 2 && chunk + 1 < chunks;
        if (turn == 0) barrier(CLK_LOCAL_MEM_FENCE);
        if (fetches) BATCH(fetch_x)(v, x, chunk + 1, turn);
        if (step < steps) {
          const local uint4* const xs = pool + chunk % 2 * CHUNK_EIGHTHS +
                                        (turn * ksplit + part) * (PARTS * EIGHTHS * 32) + lane;
          BATCH(add_batch_step)(acc, ahead + i, unit_column(step, lane % 4), xs);
          ahead[i] = load_batch_step(rows, step + BATCH_AHEAD * ksplit, x->K);
        }
        if (fetches) BATCH(store_x)(next, v, turn);
        if (turns == 1 && fetches) {
          BATCH(fetch_x)(v, x, chunk + 1, 1);
          BATCH(store_x)(next, v, 1);
        }
        if (++turn == turns) {
          turn = 0;
          ++chunk;
        }
      }
    }
  }
}

// A warp's sums, to where rows of y are together: [warp][tile of 16][row of x][row of weights].
INLINE void BATCH(share_sums)(local float* totals, const float* acc) {
  const int lane = (int)get_local_id(0) % 32;
  local float* const mine = totals + (int)get_local_id(0) / 32 * (PAIR * TILES * 128);
#pragma unroll
  for (int m = 0; m < PAIR; ++m) {
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        mine[(m * TILES * 8 + n * 8 + lane % 4 * 2 + i % 2) * 16 + lane / 4 + i / 2 * 8] =
            acc[(m * TILES + n) * 4 + i];
      }
    }
  }
}

// The total of row `row` of tile m of a row warp, for row t of x.
INLINE float BATCH(batch_total)(const local float* totals, int row_warp, int m, int t, int row, int ksplit) {
  const local float* from =
      totals + row_warp * ksplit * (PAIR * TILES * 128) + (m * TILES * 8 + t) * 16 + row;
  float total = from[0];
  for (int s = 1; s < ksplit; ++s) total += from[s * (PAIR * TILES * 128)];
  return total;
}

INLINE void BATCH(put_batch)(const linear_t* a, const local float* totals, global float* y,
                      global float* y2, int t0, int second, int first, int outputs) {
  const int ksplit = (int)a->ksplit;
  const int rows = (int)min(a->T - t0, (long)(TILES * 8));
  const int end = (int)(second ? a->N2 : a->N);
  for (int o = (int)get_local_id(0); o < outputs * rows; o += 256) {
    const int t = o / outputs;
    const int i = o % outputs;
    if (first + i >= end) continue;
    float v;
    if (a->swiglu) {
      v = silu(BATCH(batch_total)(totals, i / 16, 0, t, i % 16, ksplit)) *
          BATCH(batch_total)(totals, i / 16, 1, t, i % 16, ksplit);
    } else {
      v = BATCH(batch_total)(totals, i / 32, i / 16 % 2, t, i % 16, ksplit);
    }
    if (second) {
      y2[a->y2_offset + (t0 + t) * a->y2_stride + first + i] = v;
    } else {
      put(y + a->y_offset + (t0 + t) * a->y_stride + first + i, v, (int)a->accumulate);
    }
  }
}

kernel void BATCH(linear_batch)(const global float* x, const global uchar* w, const global uchar* w2,
                                global float* y, global float* y2, linear_t a) {
  local uint4 pool[2 * CHUNK_EIGHTHS];
  const int row_warp = (int)get_local_id(0) / 32 / (int)a.ksplit;
  const int outputs = 256 / (int)a.ksplit / (a.swiglu ? 2 : 1);
  const int blocks = (int)((a.N + outputs - 1) / outputs);
  const int second = (int)get_group_id(0) >= blocks;
  const int first = ((int)get_group_id(0) - (second ? blocks : 0)) * outputs;
  const int t0 = (int)get_group_id(1) * (TILES * 8);
  const batch_rows_t rows = pick_batch_rows(&a, w, w2, second, first, row_warp);
  batch_x_t from;
  from.x = x + a.x_offset + t0 * a.x_stride;
  from.stride = a.x_stride;
  from.aligned = (int)a.x_aligned;
  from.rows = (int)(a.T - t0);
  from.K = (int)a.K;
  float acc[PAIR * TILES * 4];
  BATCH(batch_sums)(acc, pool, &rows, &from, (int)a.ksplit);
  barrier(CLK_LOCAL_MEM_FENCE);
  BATCH(share_sums)((local float*)pool, acc);
  barrier(CLK_LOCAL_MEM_FENCE);
  BATCH(put_batch)(&a, (const local float*)pool, y, y2, t0, second, first, outputs);
}

#endif  // NV_COMPUTE >= 80
