// What mla_wgmma.cl is made of.
#if NV_COMPUTE == 90 && KVTYPE != KVTYPE_F32

#if KVTYPE == KVTYPE_F16
#define WGMMA_TYPES "f16.f16"
#else
#define WGMMA_TYPES "bf16.bf16"
#endif
#define STEPS 36
#if KVTYPE == KVTYPE_F8
#define TOKEN_BYTES RAW_ROW_BYTES
#else
#define TOKEN_BYTES ROW_BYTES
#endif
// Behind the stages, of this step and the last: probabilities of 64 slots, what their sums are
// multiplied by, and whether any is not 1 (the adders take that back). Then each slot's keys; of
// mla_wgmma_boxes.cl, what counts the copies into both stages, and a draft of the tensor map.
#define PROBABILITIES_BYTES 2048
#define FACTORS_AT (2 * PROBABILITIES_BYTES)
#define FACTORS_BYTES 256
#define ANY_AT (FACTORS_AT + 2 * FACTORS_BYTES)
#define LIMITS_AT (ANY_AT + 16)
#define COPIED_AT (LIMITS_AT + 256)
#define MAP_AT ((COPIED_AT + 16 + 127) / 128 * 128)
#define WGMMA_BYTES (TILES_BYTES + MAP_AT + 128)
// Columns of the sums, in 64s, of scorers and adders.
#define SCORER_TILES 2
#define ADDER_TILES 6
// Barriers by name. Those of a step have two, for even and odd ones: keys are in a stage (f8), or
// probabilities no longer needed (boxes); keys are no longer needed by the scorers; probabilities
// are there. Of the scorers, of the adders, of all; and of all, once: copies are counted.
#define KEYS_THERE 1
#define SUMMED 1
#define KEYS_USED 3
#define WEIGHED 5
#define SCORERS 7
#define ADDERS 8
#define ALL 9
#define PREPARED 10

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

// Asks for keys of a block in L2.
INLINE void prefetch_keys(const place_t* at, int block, int first, int keys) {
  asm volatile("//PTX cp.async.bulk.prefetch.L2.global [%0], %1;"
               :
               : "l"(at->kv + ((long)block * BLOCK + first) * TOKEN_BYTES), "r"(keys * TOKEN_BYTES)
               : "memory");
}

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
  uint phases;  // of the copies into both stages
  int next, now, later;  // keys to be copied, their block, and coming_block of those after
} pass_t;

// The block of token j in lane 0 alone: an entry that all lanes had would be waited for at once,
// to be moved to a uniform register.
INLINE int coming_block(const place_t* at, int j, int last) {
  return block_of(at, j + at->lid % 2 * BLOCK, last);
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
