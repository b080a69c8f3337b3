// mla_attention through wgmma, for compute capability 9.0, R = 512 and d = 64. Query slots are
// heads of rows, as in mla_mma.cl. What the compiler does not know stands in comments that begin
// with //PTX and become instructions in the program's binary (program_patch.h).
//
//   mla_wgmma_64   64 slots, 256 items   q_offset % 4 == 0
//   global (ceil(T H / 64) * 256, 1, runs)   local (256, 1, 1)
//
// Two groups of four warps have the same 64 slots. Scores, slots x 16 keys: each multiplies half of
// the 36 k-steps, its part of q staying in registers, keys from the stage in local memory. The two
// parts of a score meet in local memory; an item ends with four keys of one slot and puts their
// probabilities into local memory, too. Sums, columns x slots: each group adds up 256 of the 512
// columns; the values come from the stage to registers (ldmatrix) while scores are multiplied, the
// probabilities are what wgmma reads. So a stage is free for new keys as soon as its scores are
// there. L2 is asked for keys 64 ahead of the copies.
#if NV_COMPUTE == 90 && KVTYPE != KVTYPE_F32

#if KVTYPE == KVTYPE_F16
#define WGMMA_TYPES "f16.f16"
#else
#define WGMMA_TYPES "bf16.bf16"
#endif
#define GROUP_STEPS 18
#if KVTYPE == KVTYPE_F8  // two raw stages, decoded into one
#define TOKEN_BYTES RAW_ROW_BYTES
#define FETCHED_AT STAGE_BYTES
#else
#define TOKEN_BYTES ROW_BYTES
#define FETCHED_AT 0
#endif
#define FETCHED_BYTES (KEYS * TOKEN_BYTES)
// Behind the stages: scores, 512 bytes of a warp; probabilities of 64 slots, of this step and the
// last; what the sums are multiplied by.
#define SCORES_BYTES 4096
#define PROBABILITIES_BYTES 2048
#define WGMMA_BYTES (TILES_BYTES + SCORES_BYTES + 2 * PROBABILITIES_BYTES + 256)

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

// A barrier that tells whether the condition holds anywhere.
INLINE int barrier_any(int condition) {
  int any;
  asm volatile(
      "{ .reg .pred p, r; setp.ne.s32 p, %1, 0; bar.red.or.pred r, 0, p; selp.s32 %0, 1, 0, r; }"
      : "=r"(any)
      : "r"(condition)
      : "memory");
  return any;
}

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

// The keys on their way are there, as far as this item copied, or decodes, them. All
// of them, so the next are started behind it, beside the sums: before the softmax, they would
// hold up its own accesses to local memory.
INLINE void receive_keys(const place_t* at, uint odd) {
  wait_copies();
#if KVTYPE == KVTYPE_F8
  asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");  // the copies of a key are a warp's
  const int key = again(at->lid) / 16;
  const int unit = again(at->lid) % 16;
  const uint stage = again(at->memory);
  const uint raw = again(fetched_at(at, odd)) + key * RAW_ROW_BYTES;
#pragma unroll 1  // registers are short
  for (int i = 0; i < 32; i += 16) decode_codes(stage, raw, key, unit + i);
  if (unit < 8) copy_roped(stage, raw, key, unit);
#endif
  wgmma_fence_loads();
}

// Where this item's numbers lie in local memory.
typedef struct {
  int team;         // of the two groups of warps
  int slot;         // whose probabilities this lane makes
  uint scores;      // for the other group
  uint other;       // from it
  uint values;      // in a stage
  uint operand;     // probabilities
  uint flip;        // 16 where the swizzle exchanges the halves of a slot's
  uint correction;  // of slot 0
} item_t;

INLINE item_t item_of(uint mail, int lid) {
  item_t item;
  const int lane = lid % 32;
  const int warp = lid / 32 % 4;
  item.team = uniform_of(lid / 128);
  item.slot = warp * 16 + item.team * 8 + lane / 4;
  item.scores = mail + lid / 32 * 512 + lane * 16;
  item.other = mail + (lid / 32 ^ 4) * 512 + lane * 16;
  item.values = item.team * 4 * UNITS_BYTES + (lane / 16 * 8 + lane % 8) * 128 +
                ((2 * warp + lane / 8 % 2) ^ (lane % 8)) * 16;
  item.operand = mail + SCORES_BYTES + item.slot * 32 + lane % 4 * 4;
  item.flip = item.slot / 4 % 2 * 16;
  item.correction = mail + SCORES_BYTES + 2 * PROBABILITIES_BYTES;
  return item;
}

// s[n tile][4]: this group's part of the scores; v[4][4]: this group's columns of the values.
INLINE void start_scores(float* s, uint* v, const uint* a, const item_t* item, uint stage) {
  const ulong keys = keys_at(stage + item->team * 4 * UNITS_BYTES);
  const ulong last_keys = keys_at(stage + 8 * UNITS_BYTES + item->team * 64);
#pragma unroll
  for (int i = 0; i < 8; ++i) s[i] = 0.0f;
  wgmma_begin();
#pragma unroll
  for (int i = 0; i < GROUP_STEPS; ++i) {
    multiply_keys(s, a + 4 * i,
                  i < 16 ? keys + (i / 4 * UNITS_BYTES + i % 4 * 32) / 16 : last_keys + i % 4 * 2);
  }
  wgmma_commit();
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    load_matrices_transposed(v + 4 * m, stage + item->values + m * UNITS_BYTES);
  }
}

// Hands the other group the half that it makes probabilities of; own: the other half, of which the
// other group's part is there after the next barrier.
INLINE void exchange_parts(float* own, const float* s, const item_t* item) {
  float send[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float lower = s[i / 2 * 4 + i % 2];
    const float upper = s[i / 2 * 4 + 2 + i % 2];
    send[i] = item->team ? lower : upper;
    own[i] = item->team ? upper : lower;
  }
  put4(item->scores, send);
}

// Four probabilities of a slot to local memory; what its sums must be multiplied by.
INLINE float weigh(float* own, softmax_t* state, const item_t* item, uint odd, int j, float scale,
                   int lane) {
  float got[4];
  get4(got, item->other);
#pragma unroll
  for (int i = 0; i < 4; ++i) own[i] += got[i];
  uint packed[2];
  const float correction = make_probabilities(packed, own, state, j, scale, lane);
  const uint operand = item->operand + odd * PROBABILITIES_BYTES;
  put1(operand + item->flip, as_float(packed[0]));
  put1(operand + (item->flip ^ 16), as_float(packed[1]));
  if (lane % 4 == 0) put1(item->correction + item->slot * 4, correction);
  return correction;
}

INLINE void correct_sums(float* o, const item_t* item, int lane) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const uint from = item->correction + (n * 8 + lane % 4 * 2) * 4;
    const float factor[2] = {get1(from), get1(from + 4)};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[32 * m + 4 * n + i] *= factor[i % 2];
    }
  }
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
    fetch_keys(fetched_at(at, odd), at->kv, pass->now, next, last, again(at->lid), 256);
  }
  commit_copies();
  if (at->lid == 0 && next + BLOCK < last) prefetch_keys(at, later, next % BLOCK, KEYS);
  pass->next = next + KEYS;
  if (pass->next % BLOCK == 0) {
    pass->now = later;
    pass->later = coming_block(at, pass->next + BLOCK, last);
  }
}

// The next sequence with keys here, the first of which are on their way then; 0 after the last.
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
    pass->next = pass->first;
    pass->now = block_of(at, pass->first, pass->last);
    pass->later = coming_block(at, pass->first + BLOCK, pass->last);
    if (at->lid == 0) prefetch_keys(at, pass->now, KEYS, BLOCK - KEYS);
    start_copies(pass, at, 0);
    return 1;
  }
  return 0;
}

// One pass, whose first keys are on their way.
INLINE void attend(float* o, const uint* a, softmax_t* state, const place_t* at,
                   const item_t* item, pass_t* pass) {
  const int lane = at->lid % 32;
  receive_keys(at, 0);
  barrier(CLK_LOCAL_MEM_FENCE);
  start_copies(pass, at, 1);
  uint odd = 0;
  for (int j = pass->first; j < pass->last; j += KEYS) {
    float s[8];
    uint v[16];
    float own[4];
    start_scores(s, v, a, item, stage_at(at, odd));
    wgmma_wait();
    exchange_parts(own, s, item);
    barrier(CLK_LOCAL_MEM_FENCE);  // and nobody reads this stage any more
    const float correction = weigh(own, state, item, odd, j, at->scale, lane);
#if KVTYPE == KVTYPE_F8
    wgmma_fence_loads();
#else
    receive_keys(at, odd ^ 1);
#endif
    if (barrier_any(correction != 1.0f)) correct_sums(o, item, lane);
    const ulong p = probabilities_at(at->mail + SCORES_BYTES + odd * PROBABILITIES_BYTES);
    wgmma_begin();
#pragma unroll
    for (int m = 0; m < 4; ++m) multiply_values(o + 32 * m, v + 4 * m, p);
    wgmma_commit();
#if KVTYPE == KVTYPE_F8
    receive_keys(at, odd ^ 1);
#endif
    start_copies(pass, at, odd);
    wgmma_wait();
#if KVTYPE == KVTYPE_F8
    barrier(CLK_LOCAL_MEM_FENCE);  // the next keys are decoded
#endif
    odd ^= 1;
  }
}

// The sums of this item's columns: two and two of 64, of 16 slots.
INLINE void store_sums(global float* parts, const float* o, uint factors, long slots, long splits,
                       int lane) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int slot = i / 2 * 8 + lane % 4 * 2 + i % 2;
    const float factor = get1(factors + slot * 4);
    if (slot >= slots) continue;
    global float* const to = parts + slot * splits * 512;
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      to[m / 2 * 64 + m % 2 * 8] = o[m / 2 * 32 + i / 2 * 4 + m % 2 * 2 + i % 2] * factor;
    }
  }
}

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void mla_wgmma_64(MLA_ARGS) {
  local uchar memory[WGMMA_BYTES] __attribute__((aligned(1024)));
  const int lid = (int)get_local_id(0);
  const int lane = lid % 32;
  const int warp = lid / 32 % 4;
  // 32-bit divisions and native_recip: a 64-bit division or a division of floats is a call, and
  // around calls the compiler lets every wgmma wait for the one before.
  const int first_slot = (int)get_group_id(0) * 64;
  const int slots = min(T * H - first_slot, 64);
  const int last_row = (first_slot + slots - 1) / H;
  n_keys += n_keys_offset;
  table_start += table_start_offset;
  place_t at;
  at.kv = kv;
  at.tables = tables + tables_offset;
  at.scale = scale;
  at.memory = shared_address(memory);
  at.mail = at.memory + TILES_BYTES;
  at.lid = lid;
  const item_t item = item_of(at.mail, lid);
  pass_t pass;
  pass.row = first_slot / H;
  pass.first = (int)get_group_id(2) * run;
  uint a[GROUP_STEPS * 4];
  float o[128];
  float4 x[36];
  load_query_rows(x, q + q_offset + (long)(first_slot + warp * 16) * 576, item.team,
                  slots - warp * 16);
  int more = next_pass(&pass, &at, table_start, n_keys, last_row, run);
  pack_queries(a, x, at.mail + lid / 32 * 1024);
#pragma unroll
  for (int i = 0; i < 128; ++i) o[i] = 0.0f;
  const int own_row = item.slot < slots ? (first_slot + item.slot) / H : -1;
  softmax_t state;
  state.largest = -INFINITY;
  state.total = 0.0f;
  while (more) {
    const int here = own_row >= pass.first_row && own_row < pass.row;
    state.limit = here ? min(n_keys[own_row], pass.last) : 0;
    attend(o, a, &state, &at, &item, &pass);
    more = next_pass(&pass, &at, table_start, n_keys, last_row, run);
  }
  float total = state.total + from_lane(state.total, 1);
  total += from_lane(total, 2);
  const long part = (long)first_slot * splits + get_group_id(2);
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lane % 4 == 0) {
    put1(item.correction + item.slot * 4, total > 0.0f ? native_recip(total) : 0.0f);
    if (item.slot < slots) {
      lse[lse_offset + part + (long)item.slot * splits] =
          total > 0.0f ? state.largest + log(total) : -INFINITY;
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  store_sums(parts + parts_offset + part * 512 + item.team * 256 + warp * 16 + lane / 4, o,
             item.correction, slots, splits, lane);
}
#endif
