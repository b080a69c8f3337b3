// The tile of one shape: the host puts this text into the program once per shape, with MT, NT (the
// fragments of a warp) and STAGES (of x, or of both operands) defined.
#undef BM
#undef BN
#define BM (MW * MT * 16)
#define BN (WARPS / MW * NT * 8)
#ifndef SHAPED
#define PASTED(name, m, n) name##_##m##x##n
#define EXPANDED(name, m, n) PASTED(name, m, n)
#define SHAPED(name) EXPANDED(name, MT, NT)
#endif

#if NV_COMPUTE >= 80

// The fragments of 16 values of k: four words for 16 rows of x, two for 8 rows of w.
INLINE void SHAPED(load_fragments)(uint* a, uint* b, uint x_at, uint w_at, const int row_bytes) {
#pragma unroll
  for (int m = 0; m < MT; ++m) ldmatrix_x4(a + 4 * m, x_at + m * 16 * row_bytes);
#pragma unroll
  for (int n = 0; n < NT; n += 2) ldmatrix_x4(b + 2 * n, w_at + n * 8 * row_bytes);
}

INLINE void SHAPED(multiply)(float* acc, const uint* a, const uint* b) {
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      mma_bf16(acc + (m * NT + n) * 4, a + 4 * m, b[2 * n], b[2 * n + 1]);
    }
  }
}

#if WTYPE == WTYPE_BF16
// Weights go straight to local memory, 16 columns a step and STAGES steps deep. The fragments of a
// step are loaded while the step before is multiplied, so that a step's memory is free for the step
// STAGES later as soon as that multiplication begins.
//   x_at, w->row : this work-item's rows lid / 2 + 128 i of the tiles, x_at at column 8 (lid % 2)

INLINE void SHAPED(load_step16)(uint stage, const global uchar* const* x_at, const w_items_t* w,
                                int step, int K) {
  const uint lid = (uint)get_local_id(0);
  const uint at = stage + swizzled16(lid / 2, lid % 2);
  const int bytes = step * 16 + (int)(lid % 2) * 8 < K ? 16 : 0;
  const long k = (long)step * 32;
  const long x_k = (long)step * (X_ITEMS * 16);
#pragma unroll
  for (int i = 0; i < (BM + 127) / 128; ++i) {
    if (BM % 128 == 0 || lid < 2 * BM) cp_async16(at + i * 4096, x_at[i] + x_k, bytes);
  }
#pragma unroll
  for (int i = 0; i < BN / 128; ++i) {
    cp_async16(at + BM * 32 + i * 4096, w->row[i].codes + k + lid % 2 * 16, bytes);
  }
}

INLINE void SHAPED(tile_product)(float* acc, local uchar* tiles, const global uchar* const* x_at,
                                 w_items_t* w, int K) {
  const uint memory = shared_address(tiles);
  const uint stage_bytes = (BM + BN) * 32;
  const int steps = (K + 15) / 16;
  const uint lane = (uint)get_local_id(0) % 32;
  const uint warp = (uint)get_local_id(0) / 32;
  const uint x_fragments = memory + x_fragment(lane, warp % MW * MT * 16, 16);
  const uint w_fragments = memory + BM * 32 + w_fragment(lane, warp / MW * NT * 8, 16);
  uint a[2][16], b[2][16];
#pragma unroll
  for (int s = 0; s < STAGES; ++s) {
    if (s < steps) SHAPED(load_step16)(memory + s * stage_bytes, x_at, w, s, K);
    cp_async_commit();
  }
#pragma unroll
  for (int i = 0; i < MT * NT * 4; ++i) acc[i] = 0.0f;
  cp_async_wait(STAGES - 1);
  barrier(CLK_LOCAL_MEM_FENCE);
  SHAPED(load_fragments)(a[0], b[0], x_fragments, w_fragments, 32);
  uint stage = 0;
  for (int step = 0; step < steps; step += 2) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      if (step + odd < steps) {
        cp_async_wait(STAGES - 2);
        barrier(CLK_LOCAL_MEM_FENCE);
        if (step + odd + STAGES < steps) {
          SHAPED(load_step16)(memory + stage, x_at, w, step + odd + STAGES, K);
        }
        cp_async_commit();
        stage = stage == (STAGES - 1) * stage_bytes ? 0 : stage + stage_bytes;
        SHAPED(load_fragments)
        (a[1 - odd], b[1 - odd], x_fragments + stage, w_fragments + stage, 32);
        SHAPED(multiply)(acc, a[odd], b[odd]);
      }
    }
  }
  cp_async_wait(0);
  barrier(CLK_LOCAL_MEM_FENCE);
}

#else
// Weights pass through registers, AHEAD steps of 32 columns ahead, are decoded, and lie twice in
// local memory; x comes by cp.async STAGES deep.
//   x_at : this work-item's rows lid / 4 + 64 i of x's tile, at column 8 (lid % 4)
//   w->row : its rows lid / 2 + 128 i of the weights' tile; it decodes columns 16 (lid % 2) on

INLINE void SHAPED(load_x32)(uint stage, const global uchar* const* x_at, int step, int K) {
  const uint lid = (uint)get_local_id(0);
  const uint at = stage + swizzled32(lid / 4, lid % 4);
  const int bytes = step * 32 + (int)(lid % 4) * 8 < K ? 16 : 0;
#pragma unroll
  for (int i = 0; i < BM / 64; ++i) cp_async16(at + i * 4096, x_at[i] + (long)step * (X_ITEMS * 16), bytes);
}

// FP8: sums are kept in units of the scale of the 128 x 128 weights they are at, so that one set of
// registers holds them: at the next 128 columns they are multiplied by the old scale over the new.
// A scale below 2^-100 counts as 2^-100, which is as good as zero. Two scales, for the two halves
// of a warp's columns, which may be rows of two matrices or of two blocks.
INLINE void SHAPED(change_scale)(float* acc, scales_t* s, int block, int blocks) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float scale = fabs(s->next[h]) > 0x1p-100f ? s->next[h] : 0x1p-100f;
    s->next[h] = s->at[h][min(block + 1, blocks - 1)];
    const float factor = s->unit[h] / scale;
    s->unit[h] = scale;
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int n = h * NT / 2; n < (h + 1) * NT / 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[(m * NT + n) * 4 + i] *= factor;
      }
    }
  }
}

INLINE void SHAPED(end_scales)(float* acc, const scales_t* s) {
#pragma unroll
  for (int i = 0; i < MT * NT * 4; ++i) acc[i] *= s->unit[i / 4 % NT >= NT / 2];
}

#ifdef TILE_WGMMA
// Begins the products of a step: four warps take 64 rows of x each and all rows of w, or where
// there are 64 rows of x alone, 64 rows of w each.
INLINE void SHAPED(multiply32)(float* acc, uint x_at, uint w_at) {
  const uint group = (uint)get_local_id(0) / 128;
  const ulong x = tile_descriptor(x_at + (BM == 128 ? group * 4096 : 0));
  const ulong w = tile_descriptor(w_at + (BM == 128 ? 0 : group * 4096));
  wgmma_begin();
#pragma unroll
  for (int half16 = 0; half16 < 2; ++half16) {
#if NT == 16
    wgmma_m64n128k16(acc, x + 2 * half16, w + 2 * half16);
#else
    wgmma_m64n64k16(acc, x + 2 * half16, w + 2 * half16);
#endif
  }
  wgmma_commit();
}
#else
INLINE void SHAPED(multiply32)(float* acc, uint x_at, uint w_at) {
#pragma unroll
  for (int half16 = 0; half16 < 2; ++half16) {
    uint a[16], b[16];
    SHAPED(load_fragments)(a, b, x_at ^ half16 * 32, w_at ^ half16 * 32, 64);
    SHAPED(multiply)(acc, a, b);
  }
}
#endif

INLINE void SHAPED(tile_product)(float* acc, local uchar* tiles, const global uchar* const* x_at,
                                 w_items_t* w, int K) {
  const int steps = (K + 31) / 32;
  const uint memory = shared_address(tiles);
  local uchar* const w_tiles = tiles + STAGES * BM * 64;
#ifdef TILE_WGMMA
  const uint x_first = memory;
  const uint w_first = memory + STAGES * BM * 64;
#else
  const uint lane = (uint)get_local_id(0) % 32;
  const uint warp = (uint)get_local_id(0) / 32;
  const uint x_first = memory + x_fragment(lane, warp % MW * MT * 16, 32);
  const uint w_first = memory + STAGES * BM * 64 + w_fragment(lane, warp / MW * NT * 8, 32);
#endif
  run16_t runs[AHEAD * 2];
#pragma unroll
  for (int s = 0; s < AHEAD; ++s) {
#pragma unroll
    for (int i = 0; i < BN / 128; ++i) runs[s * (BN / 128) + i] = fetch_step(w->row[i], s, K);
  }
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {
    if (s < steps) SHAPED(load_x32)(memory + s * BM * 64, x_at, s, K);
    cp_async_commit();
  }
#pragma unroll
  for (int i = 0; i < MT * NT * 4; ++i) acc[i] = 0.0f;
#if SCALED_SUMS
  begin_scales(&w->scales);
#endif
#pragma unroll
  for (int i = 0; i < BN / 128; ++i) {
    store_step(w_tiles, runs[i], 0, i);
    runs[i] = fetch_step(w->row[i], AHEAD, K);
  }
  uint stage = 0;                      // of x, this step's
  uint free = (STAGES - 1) * BM * 64;  // the one before it
  for (int step0 = 0; step0 < steps; step0 += AHEAD) {
#pragma unroll
    for (int j = 0; j < AHEAD; ++j) {
      const int step = step0 + j;
      if (step < steps) {
        cp_async_wait(STAGES - 2);
#ifdef TILE_WGMMA
        wgmma_fence_loads();
#endif
        barrier(CLK_LOCAL_MEM_FENCE);
#ifdef TILE_WGMMA
        // The products run while the next step's weights are decoded.
        SHAPED(multiply32)(acc, x_first + stage, w_first + step % 2 * BN * 64);
#endif
        if (step + STAGES - 1 < steps) {
          SHAPED(load_x32)(memory + free, x_at, step + STAGES - 1, K);
        }
        cp_async_commit();
        if (step + 1 < steps) {
#pragma unroll
          for (int i = 0; i < BN / 128; ++i) {
            run16_t* const run = &runs[(j + 1) % AHEAD * (BN / 128) + i];
            store_step(w_tiles + (step + 1) % 2 * BN * 64, *run, step + 1, i);
            *run = fetch_step(w->row[i], step + 1 + AHEAD, K);
          }
        }
#ifdef TILE_WGMMA
        wgmma_wait();
#else
#if SCALED_SUMS
        if (step % 4 == 0) SHAPED(change_scale)(acc, &w->scales, step / 4, (K + 127) / 128);
#endif
        SHAPED(multiply32)(acc, x_first + stage, w_first + step % 2 * BN * 64);
#endif
        free = stage;
        stage = stage == (STAGES - 1) * BM * 64 ? 0 : stage + BM * 64;
      }
    }
  }
#if SCALED_SUMS
  SHAPED(end_scales)(acc, &w->scales);
#endif
  cp_async_wait(0);
  barrier(CLK_LOCAL_MEM_FENCE);
}
#endif  // WTYPE

// This work-item's weight rows of the tile that begins at row n0 of matrices [N, K].
INLINE void SHAPED(begin_weights)(w_items_t* w, weights_t first, weights_t second, int pairs,
                                  int n0, int N, int K) {
  const int lid = (int)get_local_id(0);
#pragma unroll
  for (int i = 0; i < BN / 128; ++i) {
    const tile_row_t at = tile_weight(lid / 2 + 128 * i, pairs, NT);
    const weights_t m = at.second ? second : first;
    w->row[i] = weight_row(m.buffer, m.codes, m.side, N, min(n0 + at.n, N - 1), K);
  }
#if SCALED_SUMS
  for (int h = 0; h < 2; ++h) {
    const tile_row_t at = tile_weight(lid / 32 / MW * NT * 8 + h * NT * 4, pairs, NT);
    const weights_t m = at.second ? second : first;
    w->scales.at[h] = (const global float*)(m.buffer + m.side) +
                      (long)(min(n0 + at.n, N - 1) / 128) * ((K + 127) / 128);
  }
#endif
}

// Row and column, within the tile, of the two sums acc[4 * fragment + 2 * half] and the next.
INLINE int SHAPED(sum_row)(int m, int half8) {
  const int lid = (int)get_local_id(0);
  return lid / 32 % MW * MT * 16 + m * 16 + half8 * 8 + lid % 32 / 4;
}
INLINE int SHAPED(sum_column)(int n, int columns_of_warp) {
  const int lid = (int)get_local_id(0);
  return lid / 32 / MW * columns_of_warp + n * 8 + lid % 4 * 2;
}

// y points at the tile's first row.
INLINE void SHAPED(store_linear)(const float* acc, global float* y, long y_stride, int even,
                                 int rows, int n0, int N, int mode) {
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int half8 = 0; half8 < 2; ++half8) {
      const int row = SHAPED(sum_row)(m, half8);
      global float* const to = y + row * y_stride;
      if (row < rows) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          const float* const c = acc + (m * NT + n) * 4 + half8 * 2;
          if (mode == MODE_STORE) {
            store2(to, n0 + SHAPED(sum_column)(n, NT * 8), N, c[0], c[1], even);
          } else if (mode == MODE_ADD) {
            add2(to, n0 + SHAPED(sum_column)(n, NT * 8), N, c[0], c[1]);
          } else if (mode == MODE_BF16) {
            store2_bf16(to, n0 + SHAPED(sum_column)(n, NT * 8), N, c[0], c[1]);
          } else if (n < NT / 2) {
            const float* const up = c + NT * 2;
            store2(to, n0 + SHAPED(sum_column)(n, NT * 4), N, quick_silu(c[0]) * up[0],
                   quick_silu(c[1]) * up[1], even);
          }
        }
      }
    }
  }
}

INLINE void SHAPED(linear_tile)(local uchar* tiles, const global uchar* x, long x_row,
                                weights_t w, weights_t w2, global float* y, long y_stride, int even,
                                int rows, int n0, int N, int K, int mode) {
  const int lid = (int)get_local_id(0);
  const global uchar* x_at[2];
  w_items_t items;
  float acc[128];  // the first MT * NT * 4 of them
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = min(lid / X_ITEMS + GEMM_ITEMS / X_ITEMS * i, rows - 1);
    x_at[i] = x + row * x_row + lid % X_ITEMS * 16;
  }
  SHAPED(begin_weights)(&items, w, w2, mode == MODE_SWIGLU, n0, N, K);
  SHAPED(tile_product)(acc, tiles, x_at, &items, K);
  SHAPED(store_linear)(acc, y, y_stride, even, rows, n0, N, mode);
}

// act is bf16 [pairs, F], F the largest of the experts'; rows of x gathered by pair_row.
INLINE void SHAPED(gate_up_tile)(local uchar* tiles, const global uchar* slab,
                                 const global expert_t* e, expert_tile_t tile,
                                 const global int* pair_row, const global float* pair_weight,
                                 const global uchar* x, global ushort* act, int n0, int D, int F) {
  const int lid = (int)get_local_id(0);
  const weights_t gate = {slab, e->gate, e->gate_side};
  const weights_t up = {slab, e->up, e->up_side};
  const int N = e->F;
  const global uchar* x_at[2];
  w_items_t items;
  float acc[128];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = min(lid / X_ITEMS + GEMM_ITEMS / X_ITEMS * i, tile.n_pairs - 1);
    x_at[i] = x + (long)pair_row[tile.first_pair + row] * D * 2 + lid % X_ITEMS * 16;
  }
  SHAPED(begin_weights)(&items, gate, up, 1, n0, N, D);
  SHAPED(tile_product)(acc, tiles, x_at, &items, D);
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int half8 = 0; half8 < 2; ++half8) {
      const int row = SHAPED(sum_row)(m, half8);
      if (row < tile.n_pairs) {
        const float weight = pair_weight[tile.first_pair + row];
        global ushort* const to = act + (long)(tile.first_pair + row) * F;
#pragma unroll
        for (int n = 0; n < NT / 2; ++n) {
          const float* const c = acc + (m * NT + n) * 4 + half8 * 2;
          const float* const u = c + NT * 2;
          const int f = n0 + SHAPED(sum_column)(n, NT * 4);
          if (f < N) {  // F is even
            *(global uint*)(to + f) =
                bf16_pair(weight * (quick_silu(c[0]) * u[0]), weight * (quick_silu(c[1]) * u[1]));
          }
        }
      }
    }
  }
}

INLINE void SHAPED(down_tile)(local uchar* tiles, const global uchar* slab,
                              const global expert_t* e, expert_tile_t tile, const global uchar* act,
                              global float* out, int even, int n0, int D, int F) {
  const int lid = (int)get_local_id(0);
  const weights_t down = {slab, e->down, e->down_side};
  const global uchar* x_at[2];
  w_items_t items;
  float acc[128];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = min(lid / X_ITEMS + GEMM_ITEMS / X_ITEMS * i, tile.n_pairs - 1);
    x_at[i] = act + (long)(tile.first_pair + row) * F * 2 + lid % X_ITEMS * 16;
  }
  SHAPED(begin_weights)(&items, down, down, 0, n0, D, e->F);
  SHAPED(tile_product)(acc, tiles, x_at, &items, e->F);
  SHAPED(store_linear)
  (acc, out + (long)tile.first_pair * D, D, even, tile.n_pairs, n0, D, MODE_STORE);
}

#endif  // NV_COMPUTE
