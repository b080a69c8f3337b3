// The passes of mla_wgmma.cl over a cache in f8. The adders bring the keys by cp.async, two steps
// of raw codes, and decode them into the only stage there is room for, so that a step's products wait
// for that.
#if NV_COMPUTE == 90 && KVTYPE == KVTYPE_F8

// All but the newest group of wgmma's are done.
INLINE void wgmma_wait_older(void) {
  asm volatile("//PTX wgmma.wait_group.sync.aligned 1;" : : : "memory");
}
INLINE void wait_older_copies(void) { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

// Where the two sets of fetched keys lie, and what is multiplied.
INLINE uint fetched_at(const place_t* at, uint odd) {
  return at->memory + STAGE_BYTES + odd * RAW_BYTES;
}
INLINE uint stage_at(const place_t* at) { return again(at->memory); }

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

// The scorers' part of a pass.
INLINE void score_pass(float* o, const uint* a, scorer_t* state, const place_t* at,
                       pass_t* pass) {
  const uint from = values_of(at->lid, 0);
  uint odd = 0;
  uint v[4 * SCORER_TILES] = {0};
  for (int j = pass->first; j < pass->last; j += KEYS) {
    float s[8];
    // The sums of the step before; in the first, nothing times what lies there.
    start_sums(o, v, at->mail + (odd ^ 1) * PROBABILITIES_BYTES, SCORER_TILES);
    named_barrier(KEYS_THERE + odd, 256);
    start_scores(s, a, stage_at(at));
    wgmma_wait_older();
    load_values(v, stage_at(at) + from, SCORER_TILES);
    wgmma_wait();
    arrive(KEYS_USED + odd, 256);
    mask_scores(s, state, at, j);
    share_weights(o, s, state, at, odd);
    arrive(WEIGHED + odd, 256);
    odd ^= 1;
  }
  start_sums(o, v, at->mail + (odd ^ 1) * PROBABILITIES_BYTES, SCORER_TILES);
  wgmma_wait();
}

// The adders' part of a pass; they also bring the keys.
INLINE void add_pass(float* o, const place_t* at, pass_t* pass) {
  const int lane = at->lid % 32;
  const uint from = values_of(at->lid, SCORER_TILES);
  uint v[4 * ADDER_TILES];
  start_pass(pass, at);
  wait_older_copies();
  decode_fetched(at, 0);
  arrive(KEYS_THERE, 256);
  named_barrier(ADDERS, 128);
  load_values(v, stage_at(at) + from, ADDER_TILES);
  uint odd = 0;
  for (int j = pass->first; j < pass->last; j += KEYS) {
    named_barrier(KEYS_USED + odd, 256);
    if (j + KEYS < pass->last) {
      wait_copies();
      decode_fetched(at, odd ^ 1);
      arrive(KEYS_THERE + (odd ^ 1), 256);
    }
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
    if (j + KEYS < pass->last) load_values(v, stage_at(at) + from, ADDER_TILES);
    odd ^= 1;
  }
  wait_copies();
}
#endif
