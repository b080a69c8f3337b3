// mla_attention on matrix units, for R = 512 and d = 64 (V2, V2-Lite, V3): mma.sync m16n8k16 with
// query slots (a head of a row) as M, f32 sums, operands of the cache's type (bf16 for f8).
//
//   mla_mma_64   64 slots, 256 items      mla_mma_16   16 slots, 128 items
//   global (ceil(T H / slots) * items, 1, runs)   local (items, 1, 1)
//
// The register file, not local memory, holds the queries and the sums: four warps share 16 or 32
// slots. In the scores each takes every fourth k-step of the 36 (its part of q stays in registers
// for the whole run), in the sums 128 of the 512 columns. So every key that ldmatrix fetches meets
// 32 slots, and 64 slots read the cache once. Scores, in parts, are added up through local memory:
// warp w ends with all 16 keys of 8 slots, makes the probabilities and hands them to all four.
//
// Keys come 16 at a time, in two stages (mla_parts.cl). Neighbouring rows of one sequence (prefill)
// share the work-group; rows of another sequence in it take a pass of their own, which leaves these
// as they are.
#if NV_COMPUTE >= 89 || (NV_COMPUTE >= 80 && KVTYPE != KVTYPE_F8)
#if KVTYPE != KVTYPE_F32
#define K_STEPS 9
#define N_TILES 16
// Loops over m-tiles run to MOST_MT and leave out those from mt_n on: they are unrolled before
// mt_n becomes known by inlining.
#define MOST_MT 2

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

// Adds up the four warps' parts of the scores and shares the probabilities: p as the A operand of
// mt_n m-tiles, correction[m][i] for the slots lane / 4 + 8 i. Two exchanges, with the warp that
// keeps the other m-tile and with the one that keeps the other 8 slots of the same. What a warp
// overwrites in a mailbox, only itself and the partner of the last barrier have read.
INLINE void share_probabilities(uint* p, float* correction, const float* s, softmax_t* state, int j,
                                float scale, uint mails, int lid, const int mt_n) {
  const int lane = lid % 32;
  const int warp = lid / 32 % 4;
  const int team = lid / 128;
  const uint mail = mails + team * 4 * MAILBOX;
  const int upper = warp / 2;
  const int odd = warp % 2;
  const uint own = mail + warp * MAILBOX + lane * 16;
  const uint other = mail + (warp ^ 2) * MAILBOX + lane * 16;
  // Of m-tile 0: the operand in mailbox 2, the corrections in mailbox 3; of m-tile 1 in 0 and 1.
  const uint operands = mail + 512;
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
    float got[4];
#pragma unroll
    for (int half_tile = 0; half_tile < 2; ++half_tile) {
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
    put4(other, send);
    named_barrier(first_barrier + 2 + upper, 64);
    get4(got, mail + (warp ^ 3) * MAILBOX + lane * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += got[i];
    uint packed[2];
    const float factor = make_probabilities(packed, sum, state, j, scale, lane);
    const uint mine = operands + (upper ? 0 : 2 * MAILBOX);
    put1(mine + lane * 16 + odd * 4, as_float(packed[0]));
    put1(mine + lane * 16 + odd * 4 + 8, as_float(packed[1]));
    if (lane % 4 == 0) put1(mine + MAILBOX + (odd * 8 + lane / 4) * 4, factor);
  }
  named_barrier(first_barrier + 4, 128);
#pragma unroll
  for (int m = 0; m < MOST_MT; ++m) {
    if (m >= mt_n) continue;
    const uint from = operands + (m == 0 ? 2 * MAILBOX : 0);
    float operand[4];
    get4(operand, from + lane * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) p[4 * m + i] = as_uint(operand[i]);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      correction[2 * m + i] = get1(from + MAILBOX + (i * 8 + lane / 4) * 4);
  }
}

// s[m][n tile][4] = this warp's part of the scores of 16 keys.
INLINE void part_products(float* s, const uint* a, uint stage, int lid, const int mt_n) {
  const int lane = lid % 32;
  const int warp = lid / 32 % 4;
  const uint key = lane / 16 * 8 + lane % 8;
  const uint unit = (2 * warp + lane / 8 % 2) ^ (lane % 8);
  const uint address = stage + key * 128 + unit * 16;
#pragma unroll
  for (int i = 0; i < 8 * MOST_MT; ++i) s[i] = 0.0f;
#pragma unroll
  for (int k = 0; k < K_STEPS; ++k) {
    uint b[4];
    load_matrices(b, address + k * UNITS_BYTES);
#pragma unroll
    for (int m = 0; m < MOST_MT; ++m) {
      if (m >= mt_n) continue;
      multiply(s + 8 * m, a + (m * K_STEPS + k) * 4, b);
      multiply(s + 8 * m + 4, a + (m * K_STEPS + k) * 4, b + 2);
    }
  }
}

// o[m][n tile][4] += p V for this warp's 128 columns.
INLINE void add_values(float* o, const uint* p, uint stage, int lid, const int mt_n) {
  const int lane = lid % 32;
  const int warp = lid / 32 % 4;
  const uint key = lane / 8 % 2 * 8 + lane % 8;
  const uint unit = (lane / 16) ^ (lane % 8);
  const uint address = stage + key * 128 + warp * 2 * UNITS_BYTES + unit * 16;
#pragma unroll
  for (int n = 0; n < N_TILES; n += 2) {
    uint b[4];
    load_matrices_transposed(b, (address ^ (n % 8 * 16)) + n / 8 * UNITS_BYTES);
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

// One pass over the keys [first, last) of one sequence, all items in step.
INLINE void attend(float* o, const uint* a, softmax_t* state, const place_t* at, int first,
                   int last, const int mt_n, const int items) {
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
  fetch_keys(fetched, at->kv, block, first, last, lid, items);
  commit_copies();
  block = block_of(at, first + KEYS, last);
  uint odd = 0;
  for (int j = first; j < last; j += KEYS) {
    wait_copies();
    barrier(CLK_LOCAL_MEM_FENCE);  // these keys are there, and nobody uses the last any more
#if KVTYPE == KVTYPE_F8
    const uint stage = at->memory;
    decode_keys(stage, fetched + odd * fetched_bytes, items);
#else
    const uint stage = fetched + odd * fetched_bytes;
#endif
    odd ^= 1;
    if (j + KEYS < last) {
      fetch_keys(fetched + odd * fetched_bytes, at->kv, block, j + KEYS, last, lid, items);
      commit_copies();
      block = block_of(at, j + 2 * KEYS, last);
    }
#if KVTYPE == KVTYPE_F8
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    float s[8 * MOST_MT];
    uint p[4 * MOST_MT];
    float correction[2 * MOST_MT];
    part_products(s, a, stage, again(at->lid), mt_n);
    share_probabilities(p, correction, s, state, j, at->scale, at->mail, again(at->lid), mt_n);
    rescale(o, correction, mt_n);
    add_values(o, p, stage, again(at->lid), mt_n);
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
  const int lid = (int)get_local_id(0);
  const int lane = lid % 32;
  const int team = lid / 128;
  const int warp = lid / 32 % 4;
  const long slots = (long)T * H;
  const long first_slot = (long)get_group_id(0) * teams * mt_n * 16;
  const long team_slot = first_slot + team * mt_n * 16;
  const long own_slot = team_slot + warp * 8 + lane / 4;  // whose probabilities this lane makes
  const int own_row = warp < 2 * mt_n && own_slot < slots ? (int)(own_slot / H) : -1;
  const int last_row = (int)((min(first_slot + teams * mt_n * 16, slots) - 1) / H);
  const int first = (int)get_group_id(2) * run;
  n_keys += n_keys_offset;
  table_start += table_start_offset;
  place_t at;
  at.kv = kv;
  at.scale = scale;
  at.tables = tables;
  at.memory = shared_address(memory);
  at.mail = at.memory + TILES_BYTES;
  at.lid = lid;

  uint a[MOST_MT * K_STEPS * 4];
  float o[MOST_MT * N_TILES * 4];
  load_queries(a, q + q_offset, team_slot, slots, warp, 4);
  if (mt_n == 2) load_queries(a + K_STEPS * 4, q + q_offset, team_slot + 16, slots, warp, 4);
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
    if (first >= last) continue;
    at.start = tables_offset + start;
    attend(o, a, &state, &at, first, last, mt_n, teams * 128);
  }

  float total = state.total + from_lane(state.total, 1);
  total += from_lane(total, 2);
  barrier(CLK_LOCAL_MEM_FENCE);  // the last probabilities have been read
  if (warp < 2 * mt_n && lane % 4 == 0) {
    local float* factor = (local float*)(memory + TILES_BYTES) + (team * 32 + warp * 8 + lane / 4);
    *factor = total > 0.0f ? 1.0f / total : 0.0f;
    if (own_slot < slots) {
      lse[lse_offset + own_slot * splits + get_group_id(2)] =
          total > 0.0f ? state.largest + log(total) : -INFINITY;
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  const local float* factors = (const local float*)(memory + TILES_BYTES) + team * 32;
  parts += parts_offset + (team_slot * splits + get_group_id(2)) * 512 + warp * 128;
  const int here = (int)min(slots - team_slot, (long)mt_n * 16);
  store_slots(parts, o, factors, splits, 0, here);
  store_slots(parts, o + 2, factors, splits, 8, here);
  if (mt_n == 2) {
    store_slots(parts, o + N_TILES * 4, factors, splits, 16, here);
    store_slots(parts, o + N_TILES * 4 + 2, factors, splits, 24, here);
  }
}

#define MLA_PASS                                                                                  \
  q, q_offset, kv, tables, tables_offset, table_start, table_start_offset, n_keys, n_keys_offset, \
      parts, parts_offset, lse, lse_offset, T, H, R, d, scale, run, splits

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
