// mla_attention through wgmma, for compute capability 9.0, R = 512 and d = 64: query slots (a head
// of a row) as M, as in mla_mma.cl. What the compiler does not know stands in comments that begin
// with
// //PTX and become instructions in the program's binary (program_patch.h).
//
//   mla_wgmma_64   64 slots, 256 items
//   global (ceil(T H / 64) * 256, 1, runs)   local (256, 1, 1)
//
// Two groups of four warps have the same 64 slots. For the scores each multiplies every second of
// the 36 k-steps, its part of q staying in registers; the two parts of a score meet in local
// memory, and both groups make the same probabilities, which are the operand of the sums as they
// stand: each group adds up 256 of the 512 columns. wgmma reads keys and values from the one stage
// (mla_parts.cl), keys with the values of a row together and values with those of a column apart.
#if NV_COMPUTE == 90 && KVTYPE != KVTYPE_F32

#if KVTYPE == KVTYPE_F16
#define WGMMA_TYPES "f16.f16"
#else
#define WGMMA_TYPES "bf16.bf16"
#endif
#define GROUP_STEPS 18
#define ALIGNMENT 1024

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

// c [64 x 128] += a [64 x 16] V for 16 keys and 128 of their values.
INLINE void multiply_values(float* c, const uint* a, ulong keys) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." WGMMA_TYPES
      " {"
      WGMMA_NAMES_64
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1; }"
      : WGMMA_SUMS_64(c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(keys)
      : "memory");
}

// s[n tile][4]: this group's part of the scores of 16 keys; then the whole, through the mailboxes
// of the two warps that have the same slots.
INLINE void start_scores(float* s, const uint* a, uint stage, int lid) {
  const ulong keys = keys_at(stage + lid / 128 * 32);
#pragma unroll
  for (int i = 0; i < 8; ++i) s[i] = 0.0f;
  wgmma_begin();
#pragma unroll
  for (int i = 0; i < GROUP_STEPS; ++i) {
    multiply_keys(s, a + 4 * i, keys + (i / 2 * UNITS_BYTES + i % 2 * 64) / 16);
  }
  wgmma_commit();
}
INLINE void join_parts(float* s, uint mail, int lid) {
  wgmma_wait();
  const uint own = mail + lid / 32 * MAILBOX + lid % 32 * 16;
  const uint other = mail + (lid / 32 ^ 4) * MAILBOX + lid % 32 * 16;
  put4(own, s);
  put4(own + 512, s + 4);
  named_barrier(1 + lid / 32 % 4, 64);
  float got[8];
  get4(got, other);
  get4(got + 4, other + 512);
#pragma unroll
  for (int i = 0; i < 8; ++i) s[i] += got[i];
}

// The probabilities of slots lane / 4 and lane / 4 + 8 as the A operand, and the sums corrected.
INLINE void weigh(uint* p, float* o, float* s, softmax_t* state, int j, float scale, int lane) {
  float correction[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    uint packed[2];
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = s[i / 2 * 4 + 2 * r + i % 2];
    correction[r] = make_probabilities(packed, v, state + r, j, scale, lane);
    p[r] = packed[0];
    p[2 + r] = packed[1];
  }
  if (!any_in_warp(correction[0] != 1.0f || correction[1] != 1.0f)) return;
#pragma unroll
  for (int n = 0; n < 32; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[4 * n + i] *= correction[i / 2];
  }
}

// One pass over the keys [first, last) of one sequence.
INLINE void attend(float* o, const uint* a, softmax_t* state, const place_t* at, int first,
                   int last) {
#if KVTYPE == KVTYPE_F8
  const uint fetched = at->memory + STAGE_BYTES;
  const uint fetched_bytes = RAW_BYTES;
#else
  const uint fetched = at->memory;
  const uint fetched_bytes = STAGE_BYTES;
#endif
  const int lid = at->lid;
  int block = block_of(at, first, last);
  barrier(CLK_LOCAL_MEM_FENCE);  // nobody reads what the last pass left
  fetch_keys(fetched, at->kv, block, first, last, lid, 256);
  commit_copies();
  block = block_of(at, first + KEYS, last);
  uint odd = 0;
  for (int j = first; j < last; j += KEYS) {
    const uint here = fetched + odd * fetched_bytes;
    wait_copies();
#if KVTYPE == KVTYPE_F8
    barrier(CLK_LOCAL_MEM_FENCE);
    decode_keys(at->memory, here, 256);
#endif
    wgmma_fence_loads();
    barrier(CLK_LOCAL_MEM_FENCE);  // these keys are there, and nobody uses the last any more
    odd ^= 1;
#if KVTYPE == KVTYPE_F8
    const uint stage = at->memory;
    const uint mail = here;  // the raw keys have been decoded: room for the mailboxes
#else
    const uint stage = here;
    const uint mail = at->mail;
#endif
    float s[8];
    uint p[4];
    start_scores(s, a, stage, lid);
    if (j + KEYS < last) {  // while they are multiplied
      fetch_keys(fetched + odd * fetched_bytes, at->kv, block, j + KEYS, last, lid, 256);
      commit_copies();
      block = block_of(at, j + 2 * KEYS, last);
    }
    join_parts(s, mail, lid);
    weigh(p, o, s, state, j, at->scale, lid % 32);
    const ulong values = values_at(stage + lid / 128 * 4 * UNITS_BYTES, UNITS_BYTES);
    wgmma_begin();
    multiply_values(o, p, values);
    multiply_values(o + 64, p, values + 2 * UNITS_BYTES / 16);
    wgmma_commit();
    wgmma_wait();
  }
}

// This item's columns of slot `slot0` + lane / 4; pairs of sums 4 apart in o.
INLINE void store_slot(global float* parts, const float* o, float factor) {
#pragma unroll
  for (int n = 0; n < 32; ++n) {
    parts[n * 8] = o[4 * n] * factor;
    parts[n * 8 + 1] = o[4 * n + 1] * factor;
  }
}

#if KVTYPE == KVTYPE_F8
#define WGMMA_BYTES TILES_BYTES
#else
#define WGMMA_BYTES (TILES_BYTES + 8 * MAILBOX)
#endif

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void mla_wgmma_64(MLA_ARGS) {
  local uchar memory[WGMMA_BYTES + ALIGNMENT] __attribute__((aligned(128)));
  const int lid = (int)get_local_id(0);
  const int lane = lid % 32;
  const long slots = (long)T * H;
  const long first_slot = (long)get_group_id(0) * 64;
  const long warp_slot = first_slot + lid / 32 % 4 * 16;
  // 32-bit divisions and native_recip: a 64-bit division or a division of floats is a call, and
  // around calls the compiler lets every wgmma wait for the one before.
  const int last_row = (min((int)first_slot + 64, T * H) - 1) / H;
  const int first = (int)get_group_id(2) * run;
  n_keys += n_keys_offset;
  table_start += table_start_offset;
  place_t at;
  at.kv = kv;
  at.tables = tables;
  at.scale = scale;
  at.memory = (shared_address(memory) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  at.mail = at.memory + TILES_BYTES;
  at.lid = lid;
  uint a[GROUP_STEPS * 4];
  float o[128];
  load_queries(a, q + q_offset, warp_slot, slots, lid / 128, 2);
#pragma unroll
  for (int n = 0; n < 32; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[4 * n + i] = 0.0f;
  }
  softmax_t state[2];
  int own_row[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const long slot = warp_slot + lane / 4 + 8 * r;
    own_row[r] = slot < slots ? (int)slot / H : -1;
    state[r].largest = -INFINITY;
    state[r].total = 0.0f;
  }
  for (int row = (int)first_slot / H; row <= last_row;) {
    const int start = table_start[row];
    const int first_row = row;
    int most = 0;
    for (; row <= last_row && table_start[row] == start; ++row) most = max(most, n_keys[row]);
    const int last = min(first + run, most);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int here = own_row[r] >= first_row && own_row[r] < row;
      state[r].limit = here ? min(n_keys[own_row[r]], last) : 0;
    }
    if (first >= last) continue;
    at.start = tables_offset + start;
    attend(o, a, state, &at, first, last);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = state[r].total + from_lane(state[r].total, 1);
    total += from_lane(total, 2);
    const long slot = warp_slot + lane / 4 + 8 * r;
    if (slot < slots) {
      const long part = slot * splits + get_group_id(2);
      store_slot(parts + parts_offset + part * 512 + lid / 128 * 256 + lane % 4 * 2, o + 2 * r,
                 total > 0.0f ? native_recip(total) : 0.0f);
      if (lid < 128 && lane % 4 == 0) {
        lse[lse_offset + part] = total > 0.0f ? state[r].largest + log(total) : -INFINITY;
      }
    }
  }
}
#endif
