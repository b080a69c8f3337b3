// mla_attention on matrix units, for R = 512 and d = 64 (V2, V2-Lite, V3): mma.sync m16n8k16 with
// query slots (a head of a row) as M, f32 sums, operands of the cache's type (bf16 for f8).
//
//   mla_mma_64   64 slots, 256 items      mla_mma_16   16 slots, 128 items
//   global (ceil(T H / slots) * items, 1, splits)   local (items, 1, 1)
//
// The register file, not local memory, holds the queries and the sums: four warps share 16 or 32
// slots. In the scores each takes every fourth k-step of the 36 (its part of q stays in registers
// for the whole run), in the sums 128 of the 512 columns. So every key that ldmatrix fetches meets
// 32 slots, and 64 slots read the cache once. Scores, in parts, are added up through local memory:
// warp w ends with all 16 keys of 8 slots, makes the probabilities and hands them to all four.
//
// Keys come by cp.async, 16 at a time in two stages, the 16-byte units of key k swizzled by
// unit ^ (k % 8) so that ldmatrix meets no bank twice. f8 arrives in two raw stages and is decoded
// into one. Neighbouring rows of one sequence (prefill) share the work-group; rows of another
// sequence in it take a pass of their own, which leaves these as they are.
#if NV_COMPUTE >= 89 || (NV_COMPUTE >= 80 && KVTYPE != KVTYPE_F8)
#if KVTYPE != KVTYPE_F32
#define KEYS 16
#define ROW_BYTES 1152  // of a key in a stage: 576 values
#define STAGE_BYTES (KEYS * ROW_BYTES)
#define RAW_ROW_BYTES 656
#define RAW_BYTES (KEYS * RAW_ROW_BYTES)
#if KVTYPE == KVTYPE_F8
#define TILES_BYTES (STAGE_BYTES + 2 * RAW_BYTES)
#else
#define TILES_BYTES (2 * STAGE_BYTES)
#endif
#define MAILBOX 1024  // bytes of a warp
#define K_STEPS 9
#define N_TILES 16
// Loops over m-tiles run to MOST_MT and leave out those from mt_n on: they are unrolled before
// mt_n becomes known by inlining.
#define MOST_MT 2

// Pointers to local memory are addresses of the shared state space already.
INLINE uint shared_address(const local uchar* p) { return (uint)(ulong)p; }

// 16 bytes, or zeros where there is no key.
INLINE void copy16(uint to, const global uchar* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
INLINE void commit_copies(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
INLINE void wait_copies(void) { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

INLINE void named_barrier(int id, int items) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(items) : "memory");
}

INLINE void load_matrices(uint* b, uint address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}
INLINE void load_matrices_transposed(uint* b, uint address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}

#if KVTYPE == KVTYPE_F16
#define MMA_NAME "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#else
#define MMA_NAME "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#endif
INLINE void multiply(float* c, const uint* a, const uint* b) {
  asm volatile(MMA_NAME "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two values in the operands' type, the first in the lower half.
INLINE uint pack(float first, float second) {
  uint both;
#if KVTYPE == KVTYPE_F16
  asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
#else
  asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
#endif
  return both;
}

INLINE float from_lane(float value, int mask) {
  float other;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;"
               : "=f"(other)
               : "f"(value), "r"(mask));
  return other;
}
INLINE int any_in_warp(int condition) {
  int any;
  asm volatile(
      "{ .reg .pred p, r; setp.ne.s32 p, %1, 0; vote.sync.any.pred r, p, 0xffffffff; selp.s32 %0, "
      "1, 0, r; }"
      : "=r"(any)
      : "r"(condition));
  return any;
}

INLINE void put4(uint to, const float* v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v[0]), "f"(v[1]),
               "f"(v[2]), "f"(v[3])
               : "memory");
}
INLINE void get4(float* v, uint from) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(from)
               : "memory");
}

// Starts copying the keys j .. j + 16 of a block, `bytes` of each, zeros from `last` on: the items of
// a work-group share a key by sixteens or eights.
INLINE void fetch_keys(uint stage, const global uchar* kv, int block, int j, int last,
                       const int items) {
  const int sharers = items / KEYS;
  const int key = (int)get_local_id(0) / sharers;
  const int unit = (int)get_local_id(0) % sharers;
  const int bytes = j + key < last ? 16 : 0;
  const long token = (long)block * BLOCK + j % BLOCK + key;
#if KVTYPE == KVTYPE_F8
  const global uchar* from = kv + token * RAW_ROW_BYTES + unit * 16;
  const uint to = stage + key * RAW_ROW_BYTES + unit * 16;
#pragma unroll
  for (int i = 0; i < 6; ++i) {
    if (unit + i * sharers < 41) copy16(to + i * sharers * 16, from + i * sharers * 16, bytes);
  }
#else
  const global uchar* from = kv + token * ROW_BYTES + unit * 16;
  const uint to = stage + key * ROW_BYTES + ((unit ^ (key % 8)) * 16);
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    if (unit + i * sharers < 72) copy16(to + i * sharers * 16, from + i * sharers * 16, bytes);
  }
#endif
  commit_copies();
}

#if KVTYPE == KVTYPE_F8
// Two codes in the lower 16 bits to bf16, scaled.
INLINE uint decode2(uint codes, float scale) {
  float first, second;
  asm volatile(
      "{ .reg .b16 c, l, h; .reg .b32 p; cvt.u16.u32 c, %2; cvt.rn.f16x2.e4m3x2 p, c; "
      "mov.b32 {l, h}, p; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
      : "=f"(first), "=f"(second)
      : "r"(codes));
  return pack(first * scale, second * scale);
}

// 16 raw keys to bf16 in the stage.
INLINE void decode_keys(uint stage, uint raw, const int items) {
  const int sharers = items / KEYS;
  const int key = (int)get_local_id(0) / sharers;
  const int unit0 = (int)get_local_id(0) % sharers;
  raw += key * RAW_ROW_BYTES;
  stage += key * ROW_BYTES;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int unit = unit0 + i * sharers;  // 16 codes, two units of the stage
    if (unit >= 32) continue;
    float scale;
    float codes[4];
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(scale) : "r"(raw + 512 + unit / 8 * 4) : "memory");
    get4(codes, raw + unit * 16);
#pragma unroll
    for (int half_unit = 0; half_unit < 2; ++half_unit) {
      float out[4];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint four = as_uint(codes[half_unit * 2 + c]);
        out[2 * c] = as_float(decode2(four & 0xffffu, scale));
        out[2 * c + 1] = as_float(decode2(four >> 16, scale));
      }
      put4(stage + (((2 * unit + half_unit) ^ (key % 8)) * 16), out);
    }
  }
  if (unit0 < 8) {  // the roped key is bf16 already
    float rope[4];
    get4(rope, raw + 528 + unit0 * 16);
    put4(stage + ((64 + (unit0 ^ (key % 8))) * 16), rope);
  }
}
#endif

// This warp's k-steps of the queries of 16 slots, as the A operand. Slots from T H on are zero.
INLINE void load_queries(uint* a, const global float* q, long slot0, long slots, int warp) {
  const int lane = (int)get_local_id(0) % 32;
#pragma unroll
  for (int k = 0; k < K_STEPS; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const long slot = slot0 + lane / 4 + i % 2 * 8;
      const int column = 16 * (warp + 4 * k) + lane % 4 * 2 + i / 2 * 8;
      float first = 0.0f;
      float second = 0.0f;
      if (slot < slots) {
        first = q[slot * 576 + column];
        second = q[slot * 576 + column + 1];
      }
#if KVTYPE == KVTYPE_F16
      first = clamp(first, -65504.0f, 65504.0f);
      second = clamp(second, -65504.0f, 65504.0f);
#endif
      a[4 * k + i] = pack(first, second);
    }
  }
}

// The largest rise of a score over the running maximum, in powers of two, at which the sums are left
// as they are: probabilities up to 256 harm nobody, and rescaling costs as much as a fourth of the
// products.
#define LAZY 8.0f

// State of the 8 slots whose probabilities this warp makes; lane / 4 is the slot.
typedef struct {
  float largest;  // of scores times log2(e)
  float total;    // of this lane's keys
  int limit;      // keys of the slot's row
} softmax_t;

// Probabilities of 4 keys of this lane, and in v[2] what the sums must be multiplied by.
INLINE void make_probabilities(float* v, softmax_t* state, int j, float scale_log2) {
  const int lane = (int)get_local_id(0) % 32;
  float s[4];
  float most = -INFINITY;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int key = j + lane % 4 * 2 + i % 2 + i / 2 * 8;
    s[i] = key < state->limit ? v[i] * scale_log2 : -INFINITY;
    most = fmax(most, s[i]);
  }
  most = fmax(most, from_lane(most, 1));
  most = fmax(most, from_lane(most, 2));
  float correction = 1.0f;
  if (most > state->largest + LAZY) {
    correction = native_exp2(state->largest - most);
    state->largest = most;
  }
  const float base = state->largest == -INFINITY ? 0.0f : state->largest;
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] = native_exp2(s[i] - base);
  state->total = fma(state->total, correction, (s[0] + s[1]) + (s[2] + s[3]));
  v[0] = as_float(pack(s[0], s[1]));
  v[1] = as_float(pack(s[2], s[3]));
  v[2] = correction;
  v[3] = 0.0f;
}

// Adds up the four warps' parts of the scores and shares the probabilities: p as the A operand of
// mt_n m-tiles, correction[m][i] for the slots lane / 4 + 8 i. Two exchanges, with the warp that
// keeps the other m-tile and with the one that keeps the other 8 slots of the same.
INLINE void share_probabilities(uint* p, float* correction, const float* s, softmax_t* state, int j,
                                float scale_log2, uint mail, int team, int warp, const int mt_n) {
  const int lane = (int)get_local_id(0) % 32;
  const int upper = warp / 2;
  const int odd = warp % 2;
  const uint own = mail + warp * MAILBOX + lane * 16;
  const uint other = mail + (warp ^ 2) * MAILBOX + lane * 16;
  float v[2][4];  // [half][key]
#pragma unroll
  for (int half_tile = 0; half_tile < 2; ++half_tile) {
    float send[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = i / 2 * 4 + half_tile * 2 + i % 2;  // [n tile][half][pair]
      const float in_lower = s[at];
      const float in_upper = s[8 + at];
      send[i] = upper ? in_lower : in_upper;
      v[half_tile][i] = upper ? in_upper : in_lower;
    }
    if (mt_n == 2 || upper) put4(own + half_tile * 512, send);
  }
  const int first_barrier = 1 + team * 5;
  named_barrier(first_barrier + odd, 64);
  if (mt_n == 2 || !upper) {
    float sum[4];
    float send[4];
#pragma unroll
    for (int half_tile = 0; half_tile < 2; ++half_tile) {
      float got[4];
      get4(got, other + half_tile * 512);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[half_tile][i] += got[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float in_first = v[0][i];
      const float in_second = v[1][i];
      send[i] = odd ? in_first : in_second;
      sum[i] = odd ? in_second : in_first;
    }
    put4(other, send);  // only this warp reads there, and it has
    named_barrier(first_barrier + 2 + upper, 64);
    float got[4];
    get4(got, mail + (warp ^ 3) * MAILBOX + lane * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += got[i];
    make_probabilities(sum, state, j, scale_log2);
    put4(other + 512, sum);
  }
  named_barrier(first_barrier + 4, 128);
#pragma unroll
  for (int m = 0; m < MOST_MT; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (m >= mt_n) continue;
      float got[4];
      get4(got, mail + ((2 * m + i) ^ 2) * MAILBOX + 512 + lane * 16);
      p[4 * m + i] = as_uint(got[0]);
      p[4 * m + 2 + i] = as_uint(got[1]);
      correction[2 * m + i] = got[2];
    }
  }
}

// s[m][n tile][4] = this warp's part of the scores of 16 keys.
INLINE void part_products(float* s, const uint* a, uint stage, int warp, const int mt_n) {
  const int lane = (int)get_local_id(0) % 32;
  const uint key = lane / 16 * 8 + lane % 8;
  const uint unit = (2 * warp + lane / 8 % 2) ^ (lane % 8);
  const uint address = stage + key * ROW_BYTES + unit * 16;
#pragma unroll
  for (int i = 0; i < 8 * MOST_MT; ++i) s[i] = 0.0f;
#pragma unroll
  for (int k = 0; k < K_STEPS; ++k) {
    uint b[4];
    load_matrices(b, address + k * 128);
#pragma unroll
    for (int m = 0; m < MOST_MT; ++m) {
      if (m >= mt_n) continue;
      multiply(s + 8 * m, a + (m * K_STEPS + k) * 4, b);
      multiply(s + 8 * m + 4, a + (m * K_STEPS + k) * 4, b + 2);
    }
  }
}

// o[m][n tile][4] += p V for this warp's 128 columns.
INLINE void add_values(float* o, const uint* p, uint stage, int warp, const int mt_n) {
  const int lane = (int)get_local_id(0) % 32;
  const uint key = lane / 8 % 2 * 8 + lane % 8;
  const uint unit = (lane / 16) ^ (lane % 8);
  const uint address = stage + key * ROW_BYTES + warp * 256 + unit * 16;
#pragma unroll
  for (int n = 0; n < N_TILES; n += 2) {
    uint b[4];
    load_matrices_transposed(b, (address ^ (n % 8 * 16)) + n / 8 * 128);
#pragma unroll
    for (int m = 0; m < MOST_MT; ++m) {
      if (m >= mt_n) continue;
      multiply(o + (m * N_TILES + n) * 4, p + 4 * m, b);
      multiply(o + (m * N_TILES + n + 1) * 4, p + 4 * m, b + 2);
    }
  }
}

INLINE void rescale(float* o, const float* correction, const int mt_n) {
  int changed = 0;
#pragma unroll
  for (int i = 0; i < 2 * MOST_MT; ++i) changed |= i < 2 * mt_n && correction[i] != 1.0f;
  if (!any_in_warp(changed)) return;
#pragma unroll
  for (int m = 0; m < MOST_MT; ++m) {
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (m < mt_n) o[(m * N_TILES + n) * 4 + i] *= correction[2 * m + i / 2];
      }
    }
  }
}

// One pass over the keys [first, last) of one sequence.
INLINE void attend(float* o, const uint* a, softmax_t* state, const global uchar* kv,
                   const global int* table, int first, int last, float scale_log2, uint memory,
                   uint mail, int team, int warp, const int mt_n, const int items) {
#if KVTYPE == KVTYPE_F8
  const uint fetched = memory + STAGE_BYTES;
  const uint fetched_bytes = RAW_BYTES;
#else
  const uint fetched = memory;
  const uint fetched_bytes = STAGE_BYTES;
#endif
  int block = table[first / BLOCK];
  barrier(CLK_LOCAL_MEM_FENCE);  // nobody reads what the last pass left
  fetch_keys(fetched, kv, block, first, last, items);
  uint odd = 0;
  for (int j = first; j < last; j += KEYS) {
    wait_copies();
    barrier(CLK_LOCAL_MEM_FENCE);  // these keys are there, and nobody uses the last any more
#if KVTYPE == KVTYPE_F8
    const uint stage = memory;
    decode_keys(stage, fetched + odd * fetched_bytes, items);
#else
    const uint stage = fetched + odd * fetched_bytes;
#endif
    odd ^= 1;
    const int next = j + KEYS;
    if (next < last) {
      if (next % BLOCK == 0) block = table[next / BLOCK];
      fetch_keys(fetched + odd * fetched_bytes, kv, block, next, last, items);
    }
#if KVTYPE == KVTYPE_F8
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    float s[16];
    uint p[8];
    float correction[4];
    part_products(s, a, stage, warp, mt_n);
    share_probabilities(p, correction, s, state, j, scale_log2, mail, team, warp, mt_n);
    rescale(o, correction, mt_n);
    add_values(o, p, stage, warp, mt_n);
  }
}

// This warp's columns of 8 slots from `slot0` on, of the `here` that there are; 4 sums apart in o.
INLINE void store_slots(global float* parts, const float* o, const local float* factors,
                        long splits, int slot0, int here) {
  const int lane = (int)get_local_id(0) % 32;
  const int slot = slot0 + lane / 4;
  if (slot >= here) return;
  const float factor = factors[slot];
  parts += slot * splits * 512 + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < N_TILES; ++n) {
    parts[n * 8] = o[4 * n] * factor;
    parts[n * 8 + 1] = o[4 * n + 1] * factor;
  }
}

INLINE void mla_mma(MLA_ARGS, local uchar* memory, const int mt_n, const int teams) {
  const int items = teams * 128;
  const int lid = (int)get_local_id(0);
  const int lane = lid % 32;
  const int team = lid / 128;
  const int warp = lid / 32 % 4;
  const uint base = shared_address(memory);
  const uint mail = base + TILES_BYTES + team * 4 * MAILBOX;
  const long slots = (long)T * H;
  const long first_slot = (long)get_group_id(0) * teams * mt_n * 16;
  const long team_slot = first_slot + team * mt_n * 16;
  const long own_slot = team_slot + warp * 8 + lane / 4;  // whose probabilities this lane makes
  const int own_row = warp < 2 * mt_n && own_slot < slots ? (int)(own_slot / H) : -1;
  const int last_row = (int)((min(first_slot + teams * mt_n * 16, slots) - 1) / H);
  const int first = (int)get_group_id(2) * run;
  n_keys += n_keys_offset;
  table_start += table_start_offset;

  uint a[MOST_MT * K_STEPS * 4];
  float o[MOST_MT * N_TILES * 4];
  load_queries(a, q + q_offset, team_slot, slots, warp);
  if (mt_n == 2) load_queries(a + K_STEPS * 4, q + q_offset, team_slot + 16, slots, warp);
#pragma unroll
  for (int n = 0; n < MOST_MT * N_TILES; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[4 * n + i] = 0.0f;
  }
  softmax_t state;
  state.largest = -INFINITY;
  state.total = 0.0f;
  for (int row = (int)(first_slot / H); row <= last_row;) {
    const int start = table_start[row];
    const int first_row = row;
    int most = 0;
    for (; row <= last_row && table_start[row] == start; ++row) most = max(most, n_keys[row]);
    const int last = min(first + run, most);
    state.limit = own_row >= first_row && own_row < row ? min(n_keys[own_row], last) : 0;
    if (first < last) {
      attend(o, a, &state, kv, tables + tables_offset + start, first, last, scale * M_LOG2E_F, base,
             mail, team, warp, mt_n, items);
    }
  }

  float total = state.total + from_lane(state.total, 1);
  total += from_lane(total, 2);
  barrier(CLK_LOCAL_MEM_FENCE);  // the last probabilities have been read
  if (warp < 2 * mt_n && lane % 4 == 0) {
    local float* factor = (local float*)(memory + TILES_BYTES) + (team * 32 + warp * 8 + lane / 4);
    *factor = total > 0.0f ? 1.0f / total : 0.0f;
    if (own_slot < slots) {
      lse[lse_offset + own_slot * get_num_groups(2) + get_group_id(2)] =
          total > 0.0f ? (state.largest + log2(total)) * M_LN2_F : -INFINITY;
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  const local float* factors = (const local float*)(memory + TILES_BYTES) + team * 32;
  const long splits = get_num_groups(2);
  parts += parts_offset + (team_slot * splits + get_group_id(2)) * 512 + warp * 128;
  const int here = (int)min(slots - team_slot, (long)mt_n * 16);
  store_slots(parts, o, factors, splits, 0, here);
  store_slots(parts, o + 2, factors, splits, 8, here);
  if (mt_n == 2) {
    store_slots(parts, o + N_TILES * 4, factors, splits, 16, here);
    store_slots(parts, o + N_TILES * 4 + 2, factors, splits, 24, here);
  }
}

#define MLA_PASS                                                                                 \
  q, q_offset, kv, tables, tables_offset, table_start, table_start_offset, n_keys, n_keys_offset, \
      parts, parts_offset, lse, lse_offset, T, H, R, d, scale, run

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void mla_mma_64(MLA_ARGS) {
  local uchar memory[TILES_BYTES + 8 * MAILBOX] __attribute__((aligned(128)));
  mla_mma(MLA_PASS, memory, 2, 2);
}

kernel __attribute__((reqd_work_group_size(128, 1, 1))) void mla_mma_16(MLA_ARGS) {
  local uchar memory[TILES_BYTES + 4 * MAILBOX] __attribute__((aligned(128)));
  mla_mma(MLA_PASS, memory, 1, 1);
}
#endif
#endif
