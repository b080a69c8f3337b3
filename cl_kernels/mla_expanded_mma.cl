// mla_expanded.cl on matrix units, for nope = dv = 128 and d = 64: mma.sync m16n8k16 in bf16 with
// f32 sums; keys, values and rope are bf16.
//
//   mla_expanded_mma     four warps of 16 rows of one head
//   global (ceil(T / 64) * H * 128, 1, 1)   local (128, 1, 1)
//
// A warp keeps its queries and sums in registers. 32 keys at a time lie in local memory, in two
// stages that cp.async fills: [5 units of 64 values][32 keys][128 bytes], two units of K, one of
// rope and two of V, the 16-byte chunks c of a key's 128 bytes at c ^ (key % 8), so that ldmatrix
// meets every bank once (and wgmma finds its 128-byte swizzle). One barrier a stage: between them
// the warps run free, so that one's products hide another's exponentials.
//
// Sixteen heads at a time, of which what runs at once shares keys in the cache; in them the rows
// with the most keys first, so that all end together.
#if NV_COMPUTE >= 80
#ifndef EXPANDED_WGMMA
#define KEYS 32
#define UNIT_BYTES (KEYS * 128)
#endif
#define STAGE_BYTES (5 * UNIT_BYTES)
#define ITEMS 128
#define TILE_ROWS 64
#define K_STEPS 12  // of 16 of the 192 values of a query
#define N_TILES 16  // of 8 of the 128 columns of a value
#define HEAD_BAND 16

// The largest rise of a score over the running maximum, in powers of two, at which the sums are
// left as they are: probabilities up to 256 harm nobody.
#define LAZY 8.0f

typedef struct {
  float largest;  // of the scores, times log2(e)
  float total;    // of this lane's keys
  int limit;      // keys of the row in this run
} softmax_t;

// The same number, but the compiler cannot know: what is made of it is made again in every step
// instead of being kept, where registers are short.
INLINE int again(int v) {
  int same;
  asm volatile("mov.b32 %0, %1;" : "=r"(same) : "r"(v));
  return same;
}

// `units` units of the 32 keys from j on, zeros from `count` on; eight items take a key's 128
// bytes.
INLINE void fetch_units(uint stage, const global uchar* from, long key_bytes, int item, int j,
                        int count, const int units) {
  const int chunk = item % 8;
#pragma unroll
  for (int i = 0; i < KEYS * 8 / ITEMS; ++i) {
    const int key = item / 8 + i * (ITEMS / 8);
    const int bytes = j + key < count ? 16 : 0;
    const global uchar* const at = from + min(j + key, count - 1) * key_bytes + chunk * 16;
    const uint to = stage + key * 128 + ((chunk ^ key % 8) << 4);
#pragma unroll
    for (int unit = 0; unit < units; ++unit) {
      // Two units of K, the place of rope, two units of V.
      cp_async16(to + (unit + (unit > 1)) * UNIT_BYTES, at + unit * 128, bytes);
    }
  }
}

// Starts copying the stage of keys j to j + 31 of a head.
INLINE void fetch_stage(uint stage, const global uchar* keys, long key_bytes,
                        const global uchar* rope, int j, int count) {
  const int item = again((int)get_local_id(0));
  fetch_units(stage, keys, key_bytes, item, j, count, 4);
  fetch_units(stage + 2 * UNIT_BYTES, rope, 128, item, j, count, 1);
  cp_async_commit();
}

// The queries of 16 rows as the A operand, the rope part rotated; rows from T on are zero. q and
// cos_sin point at the first row.
INLINE void load_queries(uint* a, const global float* q, long q_stride, const global float* cos_sin,
                         int rows) {
  const int lane = (int)get_local_id(0) % 32;
#pragma unroll
  for (int k = 0; k < K_STEPS; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8;
      const int column = 16 * k + lane % 4 * 2 + i / 2 * 8;
      float2 v = (float2)(0.0f, 0.0f);
      if (row < rows) {
        v = vload2(0, q + row * q_stride + column);
        if (k >= 8) {
          const float2 turn = vload2(0, cos_sin + row * 64 + column - 128);
          v = (float2)(v.x * turn.x - v.y * turn.y, v.x * turn.y + v.y * turn.x);
        }
      }
      a[4 * k + i] = bf16_pair(v.x, v.y);
    }
  }
}

#ifndef EXPANDED_WGMMA
// s[n tile][4] = the scores of 32 keys.
INLINE void make_scores(float* s, const uint* a, uint stage) {
  const uint lane = (uint)again((int)get_local_id(0)) % 32;
  const uint at = stage + (lane / 16 * 8 + lane % 8) * 128 + ((lane / 8 % 2 ^ lane % 8) << 4);
#pragma unroll
  for (int i = 0; i < KEYS / 2; ++i) s[i] = 0.0f;
#pragma unroll
  for (int k = 0; k < K_STEPS; ++k) {
#pragma unroll
    for (int n = 0; n < KEYS / 16; ++n) {
      uint b[4];
      ldmatrix_x4(b, (at ^ k % 4 * 32) + k / 4 * UNIT_BYTES + n * 2048);
      mma_bf16(s + 8 * n, a + 4 * k, b[0], b[1]);
      mma_bf16(s + 8 * n + 4, a + 4 * k, b[2], b[3]);
    }
  }
}

// o[n tile][4] += p V
INLINE void add_values(float* o, const uint* p, uint stage) {
  const uint lane = (uint)again((int)get_local_id(0)) % 32;
  const uint at = stage + 3 * UNIT_BYTES + lane % 16 * 128 + ((lane / 16 ^ lane % 8) << 4);
#pragma unroll
  for (int k = 0; k < KEYS / 16; ++k) {
#pragma unroll
    for (int n = 0; n < N_TILES; n += 2) {
      uint b[4];
      ldmatrix_x4_turned(b, (at ^ n % 8 * 16) + n / 8 * UNIT_BYTES + k * 2048);
      mma_bf16(o + 4 * n, p + 4 * k, b[0], b[1]);
      mma_bf16(o + 4 * n + 4, p + 4 * k, b[2], b[3]);
    }
  }
}
#define STAGE_ARRIVED()
#define SKIPPERS 32  // items that leave out a stage together
#define ALIGNMENT 128
#endif

INLINE int any_in_warp(int condition) {
  int any;
  asm volatile(
      "{ .reg .pred p, r; setp.ne.s32 p, %1, 0; vote.sync.any.pred r, p, 0xffffffff; selp.s32 %0, "
      "1, 0, r; }"
      : "=r"(any)
      : "r"(condition));
  return any;
}

// The scores of keys j to j + 31 become probabilities, the A operand of the sums p; the sums are
// corrected where the maximum has risen. `factor` is the scale times log2(e).
INLINE void weigh(uint* p, float* o, float* s, softmax_t* state, int j, float factor, int masked) {
  const int lane = (int)get_local_id(0) % 32;
  float correction[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < KEYS / 4; ++i) {
      float* const v = s + i / 2 * 4 + 2 * r + i % 2;
      if (masked && j + i / 2 * 8 + lane % 4 * 2 + i % 2 >= state[r].limit) *v = -INFINITY;
      most = fmax(most, *v);
    }
    most = fmax(most, from_lane(most, 1));
    most = fmax(most, from_lane(most, 2)) * factor;
    correction[r] = 1.0f;
    if (most > state[r].largest + LAZY) {
      correction[r] = native_exp2(state[r].largest - most);
      state[r].largest = most;
    }
    const float base = state[r].largest == -INFINITY ? 0.0f : -state[r].largest;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < KEYS / 4; ++i) {
      float* const v = s + i / 2 * 4 + 2 * r + i % 2;
      *v = native_exp2(fma(*v, factor, base));
      sum += *v;
    }
    state[r].total = fma(state[r].total, correction[r], sum);
  }
#pragma unroll
  for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) p[2 * n + r] = bf16_pair(s[4 * n + 2 * r], s[4 * n + 2 * r + 1]);
  }
  if (!any_in_warp(correction[0] != 1.0f || correction[1] != 1.0f)) return;
#pragma unroll
  for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[4 * n + i] *= correction[i / 2];
  }
}

// One row's sums of this lane, joined with what the runs before left. o: pairs 4 apart.
INLINE void store_row(global float* out, global float* lse, const float* o, softmax_t state,
                      int first) {
  float total = state.total + from_lane(state.total, 1);
  total += from_lane(total, 2);
  if (state.limit <= 0) return;
  const float before = first > 0 ? *lse * M_LOG2E_F : -INFINITY;
  const float mine = state.largest + log2(total);
  const float most = fmax(mine, before);
  const float a = native_exp2(mine - most);
  const float b = native_exp2(before - most);
  const float share = native_recip(a + b);
  const float factor = a * share * native_recip(total);
  const int lane = (int)get_local_id(0) % 32;
  out += lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < N_TILES; ++n) {
    float2 v = (float2)(o[4 * n] * factor, o[4 * n + 1] * factor);
    if (first > 0) v = fma(vload2(0, out + n * 8), (float2)(b * share), v);
    vstore2(v, 0, out + n * 8);
  }
  if (lane % 4 == 0) *lse = (most + log2(a + b)) * M_LN2_F;
}

// memory: two stages at a multiple of ALIGNMENT.
INLINE void expanded_rows(EXPANDED_ARGS, uint memory) {
  const int warp = (int)get_local_id(0) / 32;
  const int lane = (int)get_local_id(0) % 32;
  const int tiles = (T + TILE_ROWS - 1) / TILE_ROWS;
  const int band = (int)get_group_id(0) / (HEAD_BAND * tiles);
  const int in_band = (int)get_group_id(0) - band * HEAD_BAND * tiles;
  const int heads = min(HEAD_BAND, H - band * HEAD_BAND);
  const int h = band * HEAD_BAND + in_band % heads;
  const int t0 = (tiles - 1 - in_band / heads) * TILE_ROWS;
  const int row0 = t0 + warp * 16;
  n_keys += n_keys_offset;
  const int end = min(n_keys[min(t0 + TILE_ROWS, T) - 1] - first, count);
  if (end <= 0) return;
  // What this warp, or what multiplies together, has to see, and what all its rows see.
  const int skip0 = t0 + (int)get_local_id(0) / SKIPPERS * (SKIPPERS / 2);
  const int own_end = skip0 < T ? min(n_keys[min(skip0 + SKIPPERS / 2, T) - 1] - first, count) : 0;
  const int unmasked = row0 + 16 <= T ? n_keys[row0] - first : 0;

  uint a[K_STEPS * 4];
  float o[N_TILES * 4];
  softmax_t state[2];
  load_queries(a, q + q_offset + row0 * q_stride + h * 192, q_stride,
               cos_sin + cos_sin_offset + row0 * 64l, T - row0);
#pragma unroll
  for (int i = 0; i < N_TILES * 4; ++i) o[i] = 0.0f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + lane / 4 + 8 * r;
    state[r].largest = -INFINITY;
    state[r].total = 0.0f;
    state[r].limit = row < T ? min(n_keys[row] - first, count) : 0;
  }
  const global uchar* const keys = (const global uchar*)(expanded + expanded_offset) + h * 512l;
  const global uchar* const roped = (const global uchar*)(rope + rope_offset);
  const long key_bytes = H * 512l;
  const float factor = scale * M_LOG2E_F;
  uint stage = memory;
  uint other = memory + STAGE_BYTES;
  fetch_stage(stage, keys, key_bytes, roped, 0, count);
  for (int j = 0; j < end; j += KEYS) {
    cp_async_wait(0);
    STAGE_ARRIVED();
    barrier(CLK_LOCAL_MEM_FENCE);  // these keys are there, and nobody uses the last any more
    if (j + KEYS < end) fetch_stage(other, keys, key_bytes, roped, j + KEYS, count);
    if (j < own_end) {
      float s[KEYS / 2];
      uint p[KEYS / 4];
      make_scores(s, a, stage);
      weigh(p, o, s, state, j, factor, j + KEYS > unmasked);
      add_values(o, p, stage);
    }
    const uint swap = stage;
    stage = other;
    other = swap;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const long row = row0 + lane / 4 + 8 * r;
    store_row(out + out_offset + row * out_stride + h * 128, lse + lse_offset + row * H + h,
              o + 2 * r, state[r], first);
  }
}

#define EXPANDED_PASS                                                                           \
  q, q_offset, q_stride, cos_sin, cos_sin_offset, expanded, expanded_offset, rope, rope_offset, \
      n_keys, n_keys_offset, out, out_offset, out_stride, lse, lse_offset, T, H, d, nope, dv,   \
      scale, first, count

#define EXPANDED_KERNEL(NAME)                                                                  \
  kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void NAME(EXPANDED_ARGS) {         \
    local uchar memory[2 * STAGE_BYTES + ALIGNMENT - 128] __attribute__((aligned(128)));       \
    expanded_rows(EXPANDED_PASS,                                                               \
                  (shared_address(memory) + ALIGNMENT - 1) & ~(ALIGNMENT - 1u));               \
  }

#ifdef EXPANDED_WGMMA
EXPANDED_KERNEL(mla_expanded_wgmma)
#else
EXPANDED_KERNEL(mla_expanded_mma)
#endif
#endif
