// What mla_wgmma.cl is made of.
#if NV_COMPUTE == 90 && KVTYPE != KVTYPE_F32

#if KVTYPE == KVTYPE_F16
#define WGMMA_TYPES "f16.f16"
#else
#define WGMMA_TYPES "bf16.bf16"
#endif
#define STEPS 36
#if KVTYPE == KVTYPE_F8  // two raw stages, decoded into one
#define TOKEN_BYTES RAW_ROW_BYTES
#define FETCHED_AT STAGE_BYTES
#else
#define TOKEN_BYTES ROW_BYTES
#define FETCHED_AT 0
#endif
#define FETCHED_BYTES (KEYS * TOKEN_BYTES)
// Behind the stages, of this step and the last: probabilities of 64 slots, what their sums are
// multiplied by, and whether any is not 1 (the adders take that back). Then each slot's keys.
#define PROBABILITIES_BYTES 2048
#define FACTORS_AT (2 * PROBABILITIES_BYTES)
#define FACTORS_BYTES 256
#define ANY_AT (FACTORS_AT + 2 * FACTORS_BYTES)
#define LIMITS_AT (ANY_AT + 16)
#define WGMMA_BYTES (TILES_BYTES + LIMITS_AT + 256)
// Columns of the sums, in 64s, of scorers and adders.
#define SCORER_TILES 2
#define ADDER_TILES 6
// Barriers by name. Those of a step have two, for even and odd ones: keys are in a stage; are no
// longer needed there; probabilities are there. Of the scorers, of the adders, of all.
#define KEYS_THERE 1
#define KEYS_USED 3
#define WEIGHED 5
#define SCORERS 7
#define ADDERS 8
#define ALL 9

// c [64 x 16] += a [64 x 16] K^T over 16 values of 16 keys.
INLINE void multiply_keys(float* c, const uint* a, ulong keys) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n16k16.f32." WGMMA_TYPES
      " {"
      "%0, %1, %2, %3, %4, %5, %6, %7"
      "}, {%8, %9, %10, %11}, %12, add, 1, 1, 0; }"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(keys)
      : "memory");
}

// c [64 x 64] += v [64 columns x 16 keys] p [16 keys x 64 slots].
INLINE void multiply_values(float* c, const uint* v, ulong p) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." WGMMA_TYPES
      " {"
      WGMMA_NAMES_32
      "}, {%32, %33, %34, %35}, %36, add, 1, 1, 0; }"
      : WGMMA_SUMS_32(c)
      : "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]), "l"(p)
      : "memory");
}

// The probabilities at `address`: 32 bytes of a slot, swizzled; eight are 256 bytes.
INLINE ulong probabilities_at(uint address) {
  return (ulong)(address >> 4) | 1ul << 16 | (ulong)(256 >> 4) << 32 | 3ul << 62;
}

INLINE void arrive(int id, int items) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(items) : "memory");
}

// A barrier of the scorers that tells whether the condition holds anywhere.
INLINE int scorers_any(int condition) {
  int any;
  asm volatile(
      "{ .reg .pred p, r; setp.ne.s32 p, %1, 0; bar.red.or.pred r, 7, 128, p; "
      "selp.s32 %0, 1, 0, r; }"
      : "=r"(any)
      : "r"(condition)
      : "memory");
  return any;
}

// All but the newest group of wgmma's are done.
INLINE void wgmma_wait_older(void) {
  asm volatile("//PTX wgmma.wait_group.sync.aligned 1;" : : : "memory");
}
INLINE void wait_older_copies(void) { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

// Asks for keys of a block in L2.
INLINE void prefetch_keys(const place_t* at, int block, int first, int keys) {
  asm volatile("//PTX cp.async.bulk.prefetch.L2.global [%0], %1;"
               :
               : "l"(at->kv + ((long)block * BLOCK + first) * TOKEN_BYTES), "r"(keys * TOKEN_BYTES)
               : "memory");
}

// Where the two sets of fetched keys lie, and what is multiplied.
INLINE uint fetched_at(const place_t* at, uint odd) {
  return at->memory + FETCHED_AT + odd * FETCHED_BYTES;
}
INLINE uint stage_at(const place_t* at, uint odd) {
#if KVTYPE == KVTYPE_F8
  return again(at->memory);
#else
  return fetched_at(at, odd);
#endif
}

#if KVTYPE == KVTYPE_F8
// This item's part of the keys fetched last is decoded.
INLINE void decode_fetched(const place_t* at, uint odd) {
  asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");  // the copies of a key are a warp's
  const int key = again(at->lid) / 8;
  const int unit = again(at->lid) % 8;
  const uint stage = again(at->memory);
  const uint raw = again(fetched_at(at, odd)) + key * RAW_ROW_BYTES;
#pragma unroll 1  // registers are short
  for (int i = 0; i < 32; i += 8) decode_codes(stage, raw, key, unit + i);
  copy_roped(stage, raw, key, unit);
  wgmma_fence_loads();
}
#endif

// Where an item's part of the values lies in a stage, from the 64 columns `tile` on.
INLINE uint values_of(int lid, int tile) {
  const int lane = lid % 32;
  return tile * UNITS_BYTES + (lane / 16 * 8 + lane % 8) * 128 +
         ((2 * (lid / 32) + lane / 8 % 2) ^ (lane % 8)) * 16;
}

INLINE void load_values(uint* v, uint from, const int tiles) {
#pragma unroll
  for (int m = 0; m < ADDER_TILES; ++m) {
    if (m < tiles) load_matrices_transposed(v + 4 * m, from + m * UNITS_BYTES);
  }
}

// o[32 m + 4 n + i] *= what slot 8 n + lane % 4 * 2 + i % 2 asks for.
INLINE void correct_sums(float* o, uint factors, int lane, const int tiles) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const uint from = factors + (n * 8 + lane % 4 * 2) * 4;
    const float factor[2] = {get1(from), get1(from + 4)};
#pragma unroll
    for (int m = 0; m < ADDER_TILES; ++m) {
      if (m >= tiles) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) o[32 * m + 4 * n + i] *= factor[i % 2];
    }
  }
}

INLINE void start_sums(float* o, const uint* v, uint probabilities, const int tiles) {
  const ulong p = probabilities_at(probabilities);
  wgmma_begin();
#pragma unroll
  for (int m = 0; m < ADDER_TILES; ++m) {
    if (m < tiles) multiply_values(o + 32 * m, v + 4 * m, p);
  }
  wgmma_commit();
}

INLINE void start_scores(float* s, const uint* a, uint stage) {
  const ulong keys = keys_at(stage);
#pragma unroll
  for (int i = 0; i < 8; ++i) s[i] = 0.0f;
  wgmma_begin();
#pragma unroll
  for (int half_steps = 0; half_steps < 2; ++half_steps) {
#pragma unroll
    for (int i = 0; i < STEPS / 2; ++i) {
      const int unit = i < 16 ? half_steps * 4 + i / 4 : 8;
      const int step = i < 16 ? i % 4 : half_steps * 2 + i % 2;
      multiply_keys(s, a + 4 * (half_steps * STEPS / 2 + i),
                    keys + (unit * UNITS_BYTES + step * 32) / 16);
    }
  }
  wgmma_commit();
}

// The rows [first_row, row) of one sequence, whose keys are [first, last) here.
typedef struct {
  int first_row, row, first, last;
  int next, now, later;  // keys to be copied, their block, and coming_block of those after
} pass_t;

// The block of token j in lane 0 alone: an entry that all lanes had would be waited for at once,
// to be moved to a uniform register.
INLINE int coming_block(const place_t* at, int j, int last) {
  return block_of(at, j + at->lid % 2 * BLOCK, last);
}

INLINE void start_copies(pass_t* pass, const place_t* at, uint odd) {
  const int next = pass->next;
  const int last = pass->last;
  const int later = uniform_of(pass->later);
  if (next < last) {
    fetch_keys(fetched_at(at, odd), at->kv, pass->now, next, last, again(at->lid), 128);
  }
  commit_copies();
  if (at->lid == 0 && next + BLOCK < last) prefetch_keys(at, later, next % BLOCK, KEYS);
  pass->next = next + KEYS;
  if (pass->next % BLOCK == 0) {
    pass->now = later;
    pass->later = coming_block(at, pass->next + BLOCK, last);
  }
}

INLINE void start_pass(pass_t* pass, const place_t* at) {
  pass->next = pass->first;
  pass->now = block_of(at, pass->first, pass->last);
  pass->later = coming_block(at, pass->first + BLOCK, pass->last);
  if (at->lid == 0) prefetch_keys(at, pass->now, 2 * KEYS, BLOCK - 2 * KEYS);
  start_copies(pass, at, 0);
  start_copies(pass, at, 1);
}

// The next sequence with keys here; 0 after the last.
INLINE int next_pass(pass_t* pass, place_t* at, const global int* table_start,
                     const global int* n_keys, int last_row, int run) {
  while (pass->row <= last_row) {
    const int start = table_start[pass->row];
    int most = 0;
    pass->first_row = pass->row;
    for (; pass->row <= last_row && table_start[pass->row] == start; ++pass->row) {
      most = max(most, n_keys[pass->row]);
    }
    pass->last = min(pass->first + run, most);
    if (pass->first >= pass->last) continue;
    at->start = start;
    return 1;
  }
  return 0;
}

// The sums of this item's columns: two and two of 64, of 16 slots.
INLINE void store_sums(global float* parts, const float* o, uint factors, long slots, long splits,
                       int lane, const int tiles) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int slot = i / 2 * 8 + lane % 4 * 2 + i % 2;
    const float factor = get1(factors + slot * 4);
    if (slot >= slots) continue;
    global float* const to = parts + slot * splits * 512;
#pragma unroll
    for (int m = 0; m < 2 * ADDER_TILES; ++m) {
      if (m >= 2 * tiles) continue;
      to[m / 2 * 64 + m % 2 * 8] = o[m / 2 * 32 + i / 2 * 4 + m % 2 * 2 + i % 2] * factor;
    }
  }
}
#endif
