// Products of experts of up to 64 rows each with weights as the first operand of wgmma, in
// registers: y^T = w x^T. What a warp multiplies it decodes itself, so that weights pass no local
// memory and no barrier; the rows of x are the second operand, in local memory. For compute
// capability 9.0: see wgmma.cl for the comments that become instructions.
//
// A warp has 16 weight rows; a work-item has rows i and i + 8 of them (i = lane / 4) and decodes 16
// columns of each a step of 64. A fragment wants four columns from each of a row's four work-items
// c = lane % 4. The order of columns within a sum is free, so x lies in the order in which the
// weights come (turned_column): product j of step s takes place 64 s + 16 j + 8 h + 2 c + b of a
// block from word 2 j + h of work-item c.
#if NV_COMPUTE == 90

#define TURNED_ROWS 64  // of x at a time
#define X_STEP_BYTES 8192
#define X_STEPS 4  // in local memory

// c [64 x 64] += a [64 x 16] x^T: words 0 and 1 of this work-item's two rows, eight words each.
INLINE void wgmma_turned(float* c, const uint* a, ulong x) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      WGMMA_NAMES_32
      "}, {%32, %33, %34, %35}, %36, add, 1, 1, 0; }"
      : WGMMA_SUMS_32(c)
      : "r"(a[0]), "r"(a[8]), "r"(a[1]), "r"(a[9]), "l"(x)
      : "memory");
}

// Rows of 128 bytes whose 16-byte chunks are swapped: wgmma's swizzle by 128.
INLINE uint swizzled64(uint row, uint chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// Step `step` of those from step0 on, a multiple of X_STEPS.
//   x_at : of step0, chunk lid % 8 of rows lid / 8 and lid / 8 + 32 of x's tile
INLINE void load_x64(uint memory, const global uchar* const* x_at, const int step) {
  const uint lid = (uint)get_local_id(0);
  const uint at = memory + step % X_STEPS * X_STEP_BYTES + swizzled64(lid / 8, lid % 8);
#pragma unroll
  for (int i = 0; i < 2; ++i) cp_async16(at + i * 4096, x_at[i] + step * 128, 16);
}

// Weights on their way. turned_next gives eight words of both rows for a step and begins the loads
// of a later one in the place of what it read; `slot` is step % TURNED_SLOTS.
#if WTYPE == WTYPE_Q4_K
// A work-item has runs 2 c and 2 c + 1 of 32 of every block of 256: 32 bytes, whose first 16 are
// the codes of steps 0 and 1, whose others of steps 2 and 3. Rows point to the block to be loaded.
//
// Weights come from pairs of codes by one fma in bf16, 2^-24 times as large (finite for every d).
// Two roundings are thus a run's: of its scale, which the minimum makes up for where the code is 8,
// and of that minimum. Beside x's rounding and each weight's they add a tenth to a sum's error.
#define TURNED_SLOTS 4
#define TURNED_UNSCALE 0x1p24f
typedef struct {
  weight_row_t row[2];
  int left;  // blocks to be loaded
  uint4 codes[2][2];
  uint4 pairs[2];
  uint2 scale[2][2];  // of both runs: what affine4_small takes
} turned_t;

INLINE void turned_advance(turned_t* w) {
  --w->left;
  const int more = w->left > 0;  // the last block comes again, in vain
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    w->row[i].codes += more ? 128 : 0;
    w->row[i].side0 += more ? 16 : 0;
  }
}

INLINE void turned_begin(turned_t* w, int K) {
  w->left = K / 256;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    w->row[i].codes += get_local_id(0) % 4 * 32;
    w->codes[i][0] = load16(w->row[i].codes);
    w->codes[i][1] = load16(w->row[i].codes + 16);
    w->pairs[i] = load16(w->row[i].side0);
  }
  turned_advance(w);
}

// Scale and minimum of a run, both twice.
INLINE uint2 run_scale(float d, float dmin, uint scale, uint least) {
  const float a = d * (float)scale;
  const uint rounded = bf16_pair(a, a);
  const float rest = a - as_float(rounded & 0xffff0000u);
  const float b = fma(rest, 0x1p-126f, dmin * (float)least);  // 8 times 2^-129
  return (uint2)(rounded, bf16_pair(b, b));
}

// kquant_pair of both runs at once.
INLINE void run_scales(uint2* scale, uint4 pairs) {
  const int c = (int)get_local_id(0) % 4;
  const int shift = c % 2 * 16;
  const uint low = pairs.y >> shift;
  const uint middle = pairs.z >> shift;
  const uint high = pairs.w >> shift;
  const int late = c / 2;
  const uint scales = late ? (high & 0x0f0fu) | (low >> 2 & 0x3030u) : low & 0x3f3fu;
  const uint least = late ? (high >> 4 & 0x0f0fu) | (middle >> 2 & 0x3030u) : middle & 0x3f3fu;
  const float d = f32_of_f16_bits(pairs.x) * 0x1p105f;
  const float dmin = f32_of_f16_bits(pairs.x >> 16) * -0x1p-24f;
  scale[0] = run_scale(d, dmin, scales & 255, least & 255);
  scale[1] = run_scale(d, dmin, scales >> 8 & 255, least >> 8 & 255);
}

INLINE uint fma_bf16(uint a, uint b, uint c) {
  uint sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}

// a q + b of the upper halves q of four bytes: as the low byte of a bf16 they are 2^-129 q.
INLINE uint2 affine4_small(uint bytes, uint2 scale) {
  const uint upper = bytes & 0xf0f0f0f0u;
  return (uint2)(fma_bf16(permute_bytes(upper, 0, 0x4140), scale.x, scale.y),
                 fma_bf16(permute_bytes(upper, 0, 0x4342), scale.x, scale.y));
}

INLINE void turned_next(uint* words, turned_t* w, int step, const int slot, int K) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (slot == 0) {
      run_scales(w->scale[i], w->pairs[i]);
      w->pairs[i] = load16(w->row[i].side0);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint codes = word4(w->codes[i][slot / 2], j);
      const uint2 two = affine4_small(slot % 2 == 0 ? codes << 4 : codes, w->scale[i][slot % 2]);
      words[8 * i + 2 * j] = two.x;
      words[8 * i + 2 * j + 1] = two.y;
    }
    if (slot % 2 == 1) w->codes[i][slot / 2] = load16(w->row[i].codes + slot / 2 * 16);
  }
  if (slot == 3) turned_advance(w);
}
#else
#define TURNED_SLOTS 2
#define TURNED_UNSCALE 1.0f
typedef struct {
  weight_row_t row[2];
  run16_t run[2];
} turned_t;

INLINE int turned_k(int step) { return step * 64 + (int)get_local_id(0) % 4 * 16; }

INLINE void turned_fetch(turned_t* w, int step, int K) {
  const int k = turned_k(step);
#pragma unroll
  for (int i = 0; i < 2; ++i) w->run[i] = k < K ? fetch16(w->row[i], k) : zeros16();
}

INLINE void turned_begin(turned_t* w, int K) { turned_fetch(w, 0, K); }

INLINE void turned_next(uint* words, turned_t* w, int step, const int slot, int K) {
#pragma unroll
  for (int i = 0; i < 2; ++i) decode16(w->run[i], turned_k(step), words + 8 * i);
  turned_fetch(w, step + 1, K);
}
#endif

// acc [4 n + 2 h + b] = row h of this work-item's two by row 8 n + 2 (lane % 4) + b of x. Two steps
// of x are multiplied between barriers while the next two arrive.
INLINE void turned_product(float* acc, local uchar* tiles, const global uchar** x_at, turned_t* w,
                           int K) {
  const int steps = (K + 63) / 64;
  const uint memory = shared_address(tiles);
  const ulong x0 = keys_at(memory & 0x3ffff);
  uint words[2][16];
  turned_begin(w, K);
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (s < steps) load_x64(memory, x_at, s);
  }
  cp_async_commit();
#pragma unroll
  for (int i = 0; i < 32; ++i) acc[i] = 0.0f;
  turned_next(words[0], w, 0, 0, K);
  for (int step0 = 0; step0 < steps; step0 += X_STEPS) {
#pragma unroll
    for (int slot = 0; slot < X_STEPS; ++slot) {
      const int step = step0 + slot;
      if (TURNED_SLOTS == X_STEPS || step < steps) {
        if (slot % 2 == 0) {
          cp_async_wait(0);
          wgmma_fence_loads();
          barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
          for (int s = slot + 2; s < slot + 4; ++s) {
            if ((TURNED_SLOTS == X_STEPS && s < X_STEPS) || step0 + s < steps) {
              load_x64(memory, x_at, s);
            }
          }
          cp_async_commit();
        }
        const ulong x = x0 + slot * (X_STEP_BYTES / 16);
        wgmma_begin();
#pragma unroll
        for (int j = 0; j < 4; ++j) wgmma_turned(acc, words[slot % 2] + 2 * j, x + 2 * j);
        wgmma_commit();
        // The products run while the next step's weights are decoded.
        turned_next(words[1 - slot % 2], w, step + 1, (slot + 1) % TURNED_SLOTS, K);
        wgmma_wait();
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) x_at[i] += X_STEPS * 128;
  }
  cp_async_wait(0);
  barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
  for (int i = 0; i < 32; ++i) acc[i] *= TURNED_UNSCALE;
}

// What a work-group multiplies: all rows of x in a tile, TURNED_ROWS at a time.
#define TURNED_GROUP(columns)                                                                    \
  local uchar tiles[X_STEPS * X_STEP_BYTES] __attribute__((aligned(1024)));                      \
  if ((int)get_group_id(1) >= n_tiles[n_tiles_at]) return;                                       \
  const expert_tile_t tile =                                                                     \
      ((const global expert_tile_t*)(tile_list + tiles_offset))[get_group_id(1)];                \
  const global expert_t* const e = (const global expert_t*)(table + table_offset) + tile.expert; \
  const global uchar* const slab = e->slab == slab_index ? slab_a : slab_b;                      \
  const int n0 = (int)get_group_id(0) * (columns);                                               \
  if ((uint)(e->slab - slab_index) > 1) return;                                                  \
  const int lid = (int)get_local_id(0);                                                          \
  const int warp = lid / 32;                                                                     \
  const int lane = lid % 32

// Addresses that depend on `value` are not computed before the loop: there are no registers for
// them.
#define KEEP_HERE(value) asm volatile("" : "+l"(value))

// act is bf16 [pairs, ceil(F / 64) 64] in the order of blocks of act_columns. A warp's eight rows
// of gate and of up are those of eight places beside one another.
//   global ceil(F / 64) * 256, max_tiles    local (256, 1, 1), as in gemm.cl
kernel void gemm_gate_up_turned(EXPERT_ARGS, const global int* pair_row, long pair_row_offset,
                                const global float* pair_weight, long pair_weight_offset,
                                const global uchar* x, long x_offset, global float* act,
                                long act_offset, int D, int F, int act_columns) {
  TURNED_GROUP(64);
  const int N = e->F;
  if (n0 >= N) return;
  const int place = n0 + warp * 8 + lane / 4;
  const int n = turned_column(place, act_columns);
  const long x_row = (D + 63) / 64 * 128;
  for (int from = 0; from < tile.n_pairs; from += TURNED_ROWS) {
    const int rows = tile.n_pairs - from;
    const int first = tile.first_pair + from;
    const global uchar* x_at[2];
    turned_t w;
    float acc[32];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = pair_row[pair_row_offset + first + min(lid / 8 + 32 * i, rows - 1)];
      x_at[i] = x + x_offset * 4 + row * x_row + lid % 8 * 16;
    }
    w.row[0] = weight_row(slab, e->gate, e->gate_side, N, min(n, N - 1), D);
    w.row[1] = weight_row(slab, e->up, e->up_side, N, min(n, N - 1), D);
    turned_product(acc, tiles, x_at, &w, D);
    long act_row = (F + 63) / 64 * 64;
    KEEP_HERE(act_row);
    const global float* const weights = pair_weight + pair_weight_offset + first;
    global ushort* const to = (global ushort*)(act + act_offset) + first * act_row + place;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int row = i / 2 * 8 + lane % 4 * 2 + i % 2;
      const float* const c = acc + i / 2 * 4 + i % 2;
      if (row < rows) {
        const float value = n < N ? weights[row] * (quick_silu(c[0]) * c[2]) : 0.0f;
        to[row * act_row] = (ushort)bf16_pair(value, 0.0f);
      }
    }
  }
}

//   global ceil(D / 128) * 256, max_tiles
kernel void gemm_down_turned(EXPERT_ARGS, const global float* act, long act_offset,
                             global float* out, long out_offset, int D, int F) {
  TURNED_GROUP(128);
  const int n = n0 + warp * 16 + lane / 4;
  const long x_row = (F + 63) / 64 * 128;
  for (int from = 0; from < tile.n_pairs; from += TURNED_ROWS) {
    const int rows = tile.n_pairs - from;
    const int first = tile.first_pair + from;
    const global uchar* x_at[2];
    turned_t w;
    float acc[32];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const long row = first + min(lid / 8 + 32 * i, rows - 1);
      x_at[i] = (const global uchar*)(act + act_offset) + row * x_row + lid % 8 * 16;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      w.row[i] = weight_row(slab, e->down, e->down_side, D, min(n + 8 * i, D - 1), e->F);
    }
    turned_product(acc, tiles, x_at, &w, e->F);
    long stride = D;
    KEEP_HERE(stride);
    global float* const to = out + out_offset + first * stride + n;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int row = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int column = i % 4 / 2 * 8;
      if (row < rows && n + column < D) to[row * stride + column] = acc[i];
    }
  }
}

#endif  // NV_COMPUTE
