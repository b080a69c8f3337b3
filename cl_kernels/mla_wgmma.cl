// mla_attention through wgmma, for compute capability 9.0, R = 512 and d = 64. Query slots are
// heads of rows, as in mla_mma.cl. What the compiler does not know stands in comments that begin
// with //PTX and become instructions in the program's binary (program_patch.h).
//
//   mla_wgmma_64   64 slots, 256 items   q_offset % 4 == 0
//   global (ceil(T H / 64) * 256, 1, runs)   local (256, 1, 1)
//
// Two groups of four warps have the same 64 slots, and 16 keys are a step. The scorers have all of
// q in registers and multiply it with the keys in local memory, slots x keys; from a step's scores
// they make probabilities, which go to local memory, beside the next step's products. Of the sums,
// columns x slots, they add up 128 columns, the adders the other 384. Values come from the stage to
// registers (ldmatrix), probabilities are what wgmma reads, so a stage is free for new keys as soon
// as its scores are there and its values fetched. The adders bring the keys. In f8 they decode them
// too, into the only stage there is room for, so that the next step's products wait for that. L2
// is asked for keys 64 ahead of the copies.
//
// A product with 16 keys takes 16 clocks, twice what its size asks for, and longer ones do not fit:
// 32 keys are 36 KiB. A scorer's warps wait for each product, an adder's six take 32 clocks each.
#if NV_COMPUTE == 90 && KVTYPE != KVTYPE_F32

// Of slots lane / 4 and lane / 4 + 8 of this warp's 16, in powers of 2.
typedef struct {
  float largest[2], total[2];
  int limit[2];  // keys of the slot's row
} scorer_t;
// As LAZY, in powers of 2.
#define LAZY_2 8.0f

// From the scores of 16 keys of two slots, in quads of lanes, to probabilities in local memory.
// factor: what the sums must be multiplied by.
INLINE void weigh(float* factor, float* s, scorer_t* state, int j, float scale2, uint to, uint flip,
                  int lane) {
  float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int key = j + lane % 4 * 2 + i % 2 + i / 4 * 8;
    s[i] = key < state->limit[i / 2 % 2] ? s[i] * scale2 : -INFINITY;
    most[i / 2 % 2] = fmax(most[i / 2 % 2], s[i]);
  }
  float other[2];
#pragma unroll
  for (int k = 1; k <= 2; ++k) {
#pragma unroll
    for (int r = 0; r < 2; ++r) other[r] = from_lane(most[r], k);
#pragma unroll
    for (int r = 0; r < 2; ++r) most[r] = fmax(most[r], other[r]);
  }
  float base[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int rises = most[r] > state->largest[r] + LAZY_2;
    factor[r] = rises ? native_exp2(state->largest[r] - most[r]) : 1.0f;
    state->largest[r] = rises ? most[r] : state->largest[r];
    base[r] = state->largest[r] == -INFINITY ? 0.0f : state->largest[r];
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) s[i] = native_exp2(s[i] - base[i / 2 % 2]);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    put1(to + r * 256 + flip, as_float(pack(s[2 * r], s[2 * r + 1])));
    put1(to + r * 256 + (flip ^ 16), as_float(pack(s[4 + 2 * r], s[5 + 2 * r])));
    state->total[r] =
        fma(state->total[r], factor[r], (s[2 * r] + s[2 * r + 1]) + (s[4 + 2 * r] + s[5 + 2 * r]));
  }
}

// From the scores of a step to its probabilities, for all; o is corrected.
INLINE void share_weights(float* o, float* s, scorer_t* state, const place_t* at, int j, uint odd) {
  const int lane = at->lid % 32;
  const int slot = at->lid / 32 * 16 + lane / 4;
  const uint mail = at->mail;
  const uint factors = mail + FACTORS_AT + odd * FACTORS_BYTES;
  float factor[2];
  weigh(factor, s, state, j, at->scale, mail + odd * PROBABILITIES_BYTES + slot * 32 + lane % 4 * 4,
        slot / 4 % 2 * 16, lane);
  if (lane % 4 == 0) {
    put1(factors + slot * 4, factor[0]);
    put1(factors + slot * 4 + 32, factor[1]);
  }
  wgmma_fence_loads();
  const int any = scorers_any(factor[0] != 1.0f || factor[1] != 1.0f);
  if (at->lid == 0) put1(mail + ANY_AT + odd * 4, as_float(any));
  arrive(WEIGHED + odd, 256);
  if (any) correct_sums(o, factors, lane, SCORER_TILES);
}

INLINE void await_keys(uint odd) {
  named_barrier(KEYS_THERE + odd, 256);
#if KVTYPE != KVTYPE_F8  // decode_fetched has one
  wgmma_fence_loads();
#endif
}

// The scorers' part of a pass.
INLINE void score_pass(float* o, const uint* a, scorer_t* state, const place_t* at,
                       const pass_t* pass) {
  const uint from = values_of(at->lid, 0);
  uint odd = 0;
#if KVTYPE == KVTYPE_F8
  uint v[4 * SCORER_TILES] = {0};
  for (int j = pass->first; j < pass->last; j += KEYS) {
    float s[8];
    // The sums of the step before; in the first, nothing times what lies there.
    start_sums(o, v, at->mail + (odd ^ 1) * PROBABILITIES_BYTES, SCORER_TILES);
    await_keys(odd);
    start_scores(s, a, stage_at(at, odd));
    wgmma_wait_older();
    load_values(v, stage_at(at, odd) + from, SCORER_TILES);
    wgmma_wait();
    arrive(KEYS_USED + odd, 256);
    share_weights(o, s, state, at, j, odd);
    odd ^= 1;
  }
  start_sums(o, v, at->mail + (odd ^ 1) * PROBABILITIES_BYTES, SCORER_TILES);
  wgmma_wait();
#else
  uint v[4 * SCORER_TILES];
  float s[8];
  await_keys(0);
  start_scores(s, a, stage_at(at, 0));
  wgmma_wait();
  load_values(v, stage_at(at, 0) + from, SCORER_TILES);
  arrive(KEYS_USED, 256);
  int j = pass->first;
  for (; j + KEYS < pass->last; j += KEYS) {
    float next[8];
    await_keys(odd ^ 1);
    start_scores(next, a, stage_at(at, odd ^ 1));
    share_weights(o, s, state, at, j, odd);
    start_sums(o, v, at->mail + odd * PROBABILITIES_BYTES, SCORER_TILES);
    wgmma_wait();
    odd ^= 1;
    load_values(v, stage_at(at, odd) + from, SCORER_TILES);
    arrive(KEYS_USED + odd, 256);
#pragma unroll
    for (int i = 0; i < 8; ++i) s[i] = next[i];
  }
  share_weights(o, s, state, at, j, odd);
  start_sums(o, v, at->mail + odd * PROBABILITIES_BYTES, SCORER_TILES);
  wgmma_wait();
#endif
}

// The adders' part of a pass; they also bring the keys.
INLINE void add_pass(float* o, const place_t* at, pass_t* pass) {
  const int lane = at->lid % 32;
  const uint from = values_of(at->lid, SCORER_TILES);
  uint v[4 * ADDER_TILES];
  start_pass(pass, at);
  wait_older_copies();
#if KVTYPE == KVTYPE_F8
  decode_fetched(at, 0);
#endif
  arrive(KEYS_THERE, 256);
  named_barrier(ADDERS, 128);
  load_values(v, stage_at(at, 0) + from, ADDER_TILES);
#if KVTYPE != KVTYPE_F8
  if (pass->first + KEYS < pass->last) {
    wait_copies();
    arrive(KEYS_THERE + 1, 256);
  }
#endif
  uint odd = 0;
  for (int j = pass->first; j < pass->last; j += KEYS) {
    named_barrier(KEYS_USED + odd, 256);
#if KVTYPE == KVTYPE_F8
    if (j + KEYS < pass->last) {
      wait_copies();
      decode_fetched(at, odd ^ 1);
      arrive(KEYS_THERE + (odd ^ 1), 256);
    }
#endif
    start_copies(pass, at, odd);
    named_barrier(WEIGHED + odd, 256);
    const uint mail = at->mail;
    if (as_int(get1(mail + ANY_AT + odd * 4))) {
      correct_sums(o, mail + FACTORS_AT + odd * FACTORS_BYTES, lane, ADDER_TILES);
    }
    start_sums(o, v, mail + odd * PROBABILITIES_BYTES, ADDER_TILES);
    wgmma_wait();
    if (j + KEYS < pass->last) load_values(v, stage_at(at, odd ^ 1) + from, ADDER_TILES);
#if KVTYPE != KVTYPE_F8
    if (j + 2 * KEYS < pass->last) {
      wait_copies();
      arrive(KEYS_THERE + odd, 256);
    }
#endif
    odd ^= 1;
  }
  wait_copies();
}

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void mla_wgmma_64(MLA_ARGS) {
  local uchar memory[WGMMA_BYTES] __attribute__((aligned(1024)));
  const int lid = (int)get_local_id(0) % 128;
  const int team = uniform_of((int)get_local_id(0) / 128);
  const int lane = lid % 32;
  const int warp = lid / 32;
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
  at.scale = scale * M_LOG2E_F;
  at.memory = shared_address(memory);
  at.mail = at.memory + TILES_BYTES;
  at.lid = lid;
  pass_t pass;
  pass.row = first_slot / H;
  pass.first = (int)get_group_id(2) * run;
  const long part = (long)first_slot * splits + get_group_id(2);
  parts += parts_offset + part * 512 + warp * 16 + lane / 4;
  const uint factors = at.mail + FACTORS_AT;
  if (team == 0) {
    uint a[STEPS * 4];
    float o[32 * SCORER_TILES];
#pragma unroll
    for (int half_steps = 0; half_steps < 2; ++half_steps) {
      float4 x[36];
      load_query_rows(x, q + q_offset + (long)(first_slot + warp * 16) * 576, half_steps,
                      slots - warp * 16);
      pack_queries(a + half_steps * STEPS * 2, x, at.mail + warp * 1024);
    }
    // Finite numbers, for the first sums.
    const float nothing[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    named_barrier(SCORERS, 128);
    put4(at.mail + PROBABILITIES_BYTES + lid * 16, nothing);
    wgmma_fence_loads();
    named_barrier(SCORERS, 128);
#pragma unroll
    for (int i = 0; i < 32 * SCORER_TILES; ++i) o[i] = 0.0f;
    const int slot = warp * 16 + lane / 4;
    int own_row[2];
    scorer_t state;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      own_row[r] = slot + r * 8 < slots ? (first_slot + slot + r * 8) / H : -1;
      state.largest[r] = -INFINITY;
      state.total[r] = 0.0f;
    }
    while (next_pass(&pass, &at, table_start, n_keys, last_row, run)) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int here = own_row[r] >= pass.first_row && own_row[r] < pass.row;
        state.limit[r] = here ? min(n_keys[own_row[r]], pass.last) : 0;
      }
      score_pass(o, a, &state, &at, &pass);
    }
    named_barrier(ALL, 256);  // the others have read the last factors
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = state.total[r] + from_lane(state.total[r], 1);
      total += from_lane(total, 2);
      if (lane % 4 == 0) {
        put1(factors + (slot + r * 8) * 4, total > 0.0f ? native_recip(total) : 0.0f);
        if (slot + r * 8 < slots) {
          lse[lse_offset + part + (long)(slot + r * 8) * splits] =
              total > 0.0f ? state.largest[r] * M_LN2_F + log(total) : -INFINITY;
        }
      }
    }
    named_barrier(ALL, 256);
    store_sums(parts, o, factors, slots, splits, lane, SCORER_TILES);
  } else {
    float o[32 * ADDER_TILES];
#pragma unroll
    for (int i = 0; i < 32 * ADDER_TILES; ++i) o[i] = 0.0f;
    while (next_pass(&pass, &at, table_start, n_keys, last_row, run)) add_pass(o, &at, &pass);
    named_barrier(ALL, 256);
    named_barrier(ALL, 256);
    store_sums(parts + SCORER_TILES * 64, o, factors, slots, splits, lane, ADDER_TILES);
  }
}
#endif
