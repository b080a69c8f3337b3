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
  int whole;  // the keys that all slots of this warp have; LIMITS_AT tells those of each
} scorer_t;
// As LAZY, in powers of 2.
#define LAZY_2 8.0f
// Below any score, but finite: no key is still 0, and any key is far above it.
#define NOTHING_YET -1e30f

// Powers of 2, zeros below the smallest normal number: native_exp2 takes three instructions more.
INLINE float exp2_of(float x) {
  float y;
  asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Where this lane's row of a step's probabilities, a warp's 16 slots x 16 keys in four matrices of
// 8 x 8, lies.
INLINE uint weights_at(const place_t* at, uint odd) {
  const uint lid = again(at->lid);  // registers are short
  return at->mail + odd * PROBABILITIES_BYTES + (lid / 32 * 16 + lid % 16) * 32 +
         (lid / 16 % 2 ^ lid / 4 % 2) * 16;
}

// Scores s of 16 keys to probabilities at `to`, with the largest score there was before; their sums
// are added to `sums`. s[4 i + 2 r + k]: slot r, keys lane % 4 * 2 + 8 i + k.
INLINE void put_weights(float* sums, const float* s, const scorer_t* state, float scale2, uint to) {
  float p[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) p[i] = exp2_of(fma(s[i], scale2, -state->largest[i / 2 % 2]));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :
               : "r"(to), "r"(pack(p[0], p[1])), "r"(pack(p[2], p[3])), "r"(pack(p[4], p[5])),
                 "r"(pack(p[6], p[7]))
               : "memory");
#pragma unroll
  for (int r = 0; r < 2; ++r) sums[r] += (p[2 * r] + p[2 * r + 1]) + (p[4 + 2 * r] + p[5 + 2 * r]);
}

INLINE float largest_of(const float* s, int r) {
  return fmax(fmax(s[2 * r], s[2 * r + 1]), fmax(s[4 + 2 * r], s[5 + 2 * r]));
}

// The same again where a score is too large for the largest one before; scale2 > 0.
INLINE void raise_weights(float* o, const float* s, scorer_t* state, const place_t* at, uint odd) {
  const int lane = at->lid % 32;
  const uint factors = at->mail + FACTORS_AT + odd * FACTORS_BYTES;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = largest_of(s, r);
    most = fmax(most, from_lane(most, 1));
    most = fmax(most, from_lane(most, 2)) * at->scale;
    const int rises = most > state->largest[r] + LAZY_2;
    const float factor = rises ? exp2_of(state->largest[r] - most) : 1.0f;
    state->largest[r] = rises ? most : state->largest[r];
    state->total[r] *= factor;
    if (lane % 4 == 0) put1(factors + (at->lid / 32 * 16 + lane / 4 + r * 8) * 4, factor);
  }
  put_weights(state->total, s, state, at->scale, weights_at(at, odd));
  if (at->lid == 0) put1(at->mail + ANY_AT + odd * 4, 1.0f);
  wgmma_fence_loads();
  named_barrier(SCORERS, 128);
  correct_sums(o, factors, lane, SCORER_TILES);
}

// From the scores of a step to its probabilities, for all. They are made with the largest score of
// the steps before, so that no lane waits for another's. Only if one is above it by more than
// LAZY_2, which is rare, are they made again and the sums corrected.
INLINE void share_weights(float* o, const float* s, scorer_t* state, const place_t* at, uint odd) {
  float sums[2] = {state->total[0], state->total[1]};
  put_weights(sums, s, state, at->scale, weights_at(at, odd));
  int rises = 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rises |= fma(largest_of(s, r), at->scale, -state->largest[r]) > LAZY_2;
  }
  wgmma_fence_loads();
  if (scorers_any(rises)) {
    raise_weights(o, s, state, at, odd);
  } else {
#pragma unroll
    for (int r = 0; r < 2; ++r) state->total[r] = sums[r];
  }
  arrive(WEIGHED + odd, 256);
}

// Scores of keys that a slot's row does not have become -INFINITY.
INLINE void mask_scores(float* s, const scorer_t* state, const place_t* at, int j) {
  if (j + KEYS <= state->whole) return;
  const uint lid = again(at->lid);
  const uint limits = at->mail + LIMITS_AT + (lid / 32 * 16 + lid % 32 / 4) * 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int key = j + (int)(lid % 4 * 2) + i % 2 + i / 4 * 8;
    if (key >= as_int(get1(limits + i / 2 % 2 * 32))) s[i] = -INFINITY;
  }
}

// How many of the pass's keys each slot of this warp has.
INLINE void set_limits(scorer_t* state, const place_t* at, const int* own_row, const pass_t* pass,
                       const global int* n_keys) {
  const uint limits = at->mail + LIMITS_AT + (at->lid / 32 * 16 + at->lid % 32 / 4) * 4;
  int fewest = pass->last;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int here = own_row[r] >= pass->first_row && own_row[r] < pass->row;
    const int limit = here ? min(n_keys[own_row[r]], pass->last) : 0;
    fewest = min(fewest, limit);
    put1(limits + r * 32, as_float(limit));
  }
  asm volatile("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(state->whole) : "r"(fewest));
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
    mask_scores(s, state, at, j);
    share_weights(o, s, state, at, odd);
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
    mask_scores(s, state, at, j);
    await_keys(odd ^ 1);
    start_scores(next, a, stage_at(at, odd ^ 1));
    share_weights(o, s, state, at, odd);
    start_sums(o, v, at->mail + odd * PROBABILITIES_BYTES, SCORER_TILES);
    wgmma_wait();
    odd ^= 1;
    load_values(v, stage_at(at, odd) + from, SCORER_TILES);
    arrive(KEYS_USED + odd, 256);
#pragma unroll
    for (int i = 0; i < 8; ++i) s[i] = next[i];
  }
  mask_scores(s, state, at, j);
  share_weights(o, s, state, at, odd);
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
    if (get1(mail + ANY_AT + odd * 4) != 0.0f) {
      correct_sums(o, mail + FACTORS_AT + odd * FACTORS_BYTES, lane, ADDER_TILES);
      named_barrier(ADDERS, 128);
      if (at->lid == 0) put1(mail + ANY_AT + odd * 4, 0.0f);
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
    if (lid == 0) put4(at.mail + ANY_AT, nothing);
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
      state.largest[r] = NOTHING_YET;
      state.total[r] = 0.0f;
    }
    while (next_pass(&pass, &at, table_start, n_keys, last_row, run)) {
      set_limits(&state, &at, own_row, &pass, n_keys);
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
