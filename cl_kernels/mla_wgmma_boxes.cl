// The passes of mla_wgmma.cl over a cache in f16 or bf16. Keys come by a tensor map that the kernel
// makes, and that lies where this work-group's first part will be written: one item asks for a box
// of 16 keys, and copying costs the others no instruction. The first two steps come by cp.async,
// while the map is made and q loaded.
#if NV_COMPUTE == 90 && (KVTYPE == KVTYPE_F16 || KVTYPE == KVTYPE_BF16)

INLINE uint stage_at(const place_t* at, uint odd) { return at->memory + odd * STAGE_BYTES; }
INLINE uint copied_at(const place_t* at, uint odd) { return at->mail + COPIED_AT + odd * 8; }
INLINE void wait_older_copies(void) { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

#define MAP_NUMBER(field, bits, type, map, i, v)                                            \
  asm volatile("//PTX tensormap.replace.tile." field ".shared::cta.b1024." bits " [%0], " i \
               ", %1;" ::"r"(map),                                                          \
               type(v)                                                                      \
               : "memory")
#define MAP_KIND(field, v, map)                                                                 \
  asm volatile("//PTX tensormap.replace.tile." field ".shared::cta.b1024.b32 [%0], " v ";" ::"r"( \
                   map)                                                                         \
               : "memory")

// The tensor map of the cache, in 128 bytes of zeros: 64 values, tokens, units of 64 values; a box
// is a stage.
INLINE void describe_cache(uint map, const global uchar* kv) {
  asm volatile("//PTX tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(
                   map),
               "l"(kv)
               : "memory");
  MAP_KIND("rank", "2", map);  // that is, three
  MAP_NUMBER("box_dim", "b32", "r", map, "0", 64);
  MAP_NUMBER("box_dim", "b32", "r", map, "1", KEYS);
  MAP_NUMBER("box_dim", "b32", "r", map, "2", 9);
  MAP_NUMBER("global_dim", "b32", "r", map, "0", 64);
  MAP_NUMBER("global_dim", "b32", "r", map, "1", 0x40000000);  // more than there are
  MAP_NUMBER("global_dim", "b32", "r", map, "2", 9);
  MAP_NUMBER("global_stride", "b64", "l", map, "0", (ulong)ROW_BYTES);
  MAP_NUMBER("global_stride", "b64", "l", map, "1", 128ul);
  MAP_NUMBER("element_stride", "b32", "r", map, "0", 1);
  MAP_NUMBER("element_stride", "b32", "r", map, "1", 1);
  MAP_NUMBER("element_stride", "b32", "r", map, "2", 1);
  MAP_KIND("elemtype", "1", map);  // 16 bits
  MAP_KIND("interleave_layout", "0", map);
  MAP_KIND("swizzle_mode", "3", map);  // 128 bytes
  MAP_KIND("fill_mode", "0", map);
}

// By the adders: the tensor map at at->map, and the counters of copied bytes.
INLINE void prepare_copies(const place_t* at) {
  if (at->lid >= 32) return;
  const uint map = at->mail + MAP_AT;
  put1(map + at->lid * 4, 0.0f);
  asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
  if (at->lid == 0) {
    describe_cache(map, at->kv);
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      asm volatile("//PTX mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(copied_at(at, odd))
                   : "memory");
    }
    asm volatile("//PTX fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
  asm volatile(
      "//PTX tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync"
      ".aligned [%0], [%1], 128;" ::"l"(at->map),
      "r"(map)
      : "memory");
  asm volatile("//PTX fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(at->map)
               : "memory");
}

// Waits for the keys in a stage.
INLINE void await_copies(const place_t* at, pass_t* pass, uint odd) {
  asm volatile(
      "//PTX { .reg .pred p; WAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; "
      "@!p bra WAIT; }" ::"r"(copied_at(at, odd)),
      "r"(pass->phases >> odd & 1)
      : "memory");
  pass->phases ^= 1u << odd;
}

// The keys 64 behind those copied last, line by line: cp.async.bulk.prefetch holds its item longer
// than all of these.
INLINE void prefetch_lines(const pass_t* pass, const place_t* at) {
  const int next = pass->next - KEYS;
  if (next + BLOCK >= pass->last) return;
  const int block = pass->next % BLOCK == 0 ? pass->now : uniform_of(pass->later);
  const int lid = again(at->lid);
  const global uchar* const from =
      at->kv + ((long)block * BLOCK + next % BLOCK) * ROW_BYTES + lid * 128;
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from) : "memory");
  if (lid < STAGE_BYTES / 128 - 128) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + 128 * 128) : "memory");
  }
}

// One item asks for the box of 16 keys from `token` of the cache on.
INLINE void copy_box(const place_t* at, int token, uint odd) {
  const uint copied = copied_at(at, odd);
  asm volatile("//PTX mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(copied),
               "r"(STAGE_BYTES)
               : "memory");
  asm volatile(
      "//PTX cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(stage_at(at, odd)),
      "l"(at->map), "r"(0), "r"(token), "r"(0), "r"(copied)
      : "memory");
}

// What all adders have copied into a stage counts as a box.
INLINE void count_copies(const place_t* at, uint odd) {
  wgmma_fence_loads();
  named_barrier(ADDERS, 128);
  if (at->lid == 0) {
    asm volatile("//PTX mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(copied_at(at, odd))
                 : "memory");
  }
}

INLINE void begin_pass(pass_t* pass, const place_t* at) {
  pass->next = pass->first;
  pass->now = block_of(at, pass->first, pass->last);
  pass->later = coming_block(at, pass->first + BLOCK, pass->last);
}
INLINE void go_on(pass_t* pass, const place_t* at) {
  pass->next += KEYS;
  if (pass->next % BLOCK == 0) {
    pass->now = uniform_of(pass->later);
    pass->later = coming_block(at, pass->next + BLOCK, pass->last);
  }
}

// Asks L2 for what no step before asks for.
INLINE void prefetch_first(const pass_t* pass, const place_t* at) {
  if (at->lid == 0) {
    prefetch_keys(at, pass->now, 2 * KEYS, BLOCK - 2 * KEYS);
    prefetch_keys(at, pass->later, 0, 3 * KEYS);
  }
}

// Brings the next 16 keys to a stage that nobody reads. Of a run's last ones what is no key must be
// zeros, as anything may lie there: all adders copy these.
INLINE void start_copies(pass_t* pass, const place_t* at, uint odd) {
  const int next = pass->next;
  if (next + KEYS <= pass->last) {
    if (at->lid == 0) copy_box(at, pass->now * BLOCK + next % BLOCK, odd);
  } else if (next < pass->last) {
    fetch_keys(stage_at(at, odd), at->kv, pass->now, next, pass->last, again(at->lid), 128);
    commit_copies();
    wait_copies();
    count_copies(at, odd);
  }
  go_on(pass, at);
}

INLINE void start_pass(pass_t* pass, const place_t* at) {
  named_barrier(ADDERS, 128);  // the last pass is over
  begin_pass(pass, at);
  prefetch_first(pass, at);
  start_copies(pass, at, 0);
  start_copies(pass, at, 1);
}

// start_pass of the first pass, before there is a map; and later: the copies are there.
INLINE void copy_first(pass_t* pass, const place_t* at) {
  begin_pass(pass, at);
#pragma unroll
  for (int odd = 0; odd < 2; ++odd) {
    if (pass->next < pass->last) {
      fetch_keys(stage_at(at, odd), at->kv, pass->now, pass->next, pass->last, again(at->lid), 128);
    }
    commit_copies();
    go_on(pass, at);
  }
  prefetch_first(pass, at);
}
INLINE void count_first(const pass_t* pass, const place_t* at) {
  wait_older_copies();
  count_copies(at, 0);
  wait_copies();
  if (pass->first + KEYS < pass->last) count_copies(at, 1);
}

// The scorers' part of a pass.
INLINE void score_pass(float* o, const uint* a, scorer_t* state, const place_t* at, pass_t* pass) {
  const uint from = values_of(at->lid, 0);
  uint odd = 0;
  uint v[4 * SCORER_TILES];
  float s[8];
  await_copies(at, pass, 0);
  start_scores(s, a, stage_at(at, 0));
  wgmma_wait();
  load_values(v, stage_at(at, 0) + from, SCORER_TILES);
  arrive(KEYS_USED, 256);
  for (int j = pass->first; j + KEYS < pass->last; j += KEYS) {
    float next[8];
    mask_scores(s, state, at, j);
    await_copies(at, pass, odd ^ 1);
    start_scores(next, a, stage_at(at, odd ^ 1));
    named_barrier(SUMMED + odd, 256);
    share_weights(o, s, state, at, odd);
    // Of both sides' sums these are ready first, whoever is told first.
    arrive(WEIGHED + odd, 256);
    start_sums(o, v, at->mail + odd * PROBABILITIES_BYTES, SCORER_TILES);
    wgmma_wait();
    odd ^= 1;
    load_values(v, stage_at(at, odd) + from, SCORER_TILES);
    arrive(KEYS_USED + odd, 256);
#pragma unroll
    for (int i = 0; i < 8; ++i) s[i] = next[i];
  }
  mask_scores(s, state, at, (pass->last - 1 - pass->first) / KEYS * KEYS + pass->first);
  named_barrier(SUMMED + odd, 256);
  share_weights(o, s, state, at, odd);
  start_sums(o, v, at->mail + odd * PROBABILITIES_BYTES, SCORER_TILES);
  arrive(WEIGHED + odd, 256);
  wgmma_wait();
}

// The adders' part of a pass; they also bring the keys.
INLINE void add_pass(float* o, const place_t* at, pass_t* pass) {
  const int lane = at->lid % 32;
  const uint from = values_of(at->lid, SCORER_TILES);
  uint v[4 * ADDER_TILES], next[4 * ADDER_TILES];
  // Nobody reads the first two steps' probabilities.
  arrive(SUMMED, 256);
  if (pass->first + KEYS < pass->last) arrive(SUMMED + 1, 256);
  await_copies(at, pass, 0);
  load_values(v, stage_at(at, 0) + from, ADDER_TILES);
  named_barrier(KEYS_USED, 256);
  start_copies(pass, at, 0);
  uint odd = 0;
  for (int j = pass->first; j < pass->last; j += KEYS) {
    const uint mail = at->mail;
    const int more = j + KEYS < pass->last;
    if (more) {
      await_copies(at, pass, odd ^ 1);
      load_values(next, stage_at(at, odd ^ 1) + from, ADDER_TILES);
    }
    named_barrier(WEIGHED + odd, 256);
    if (get1(mail + ANY_AT + odd * 4) != 0.0f) {
      correct_sums(o, mail + FACTORS_AT + odd * FACTORS_BYTES, lane, ADDER_TILES);
      named_barrier(ADDERS, 128);
      if (at->lid == 0) put1(mail + ANY_AT + odd * 4, 0.0f);
    }
    start_sums(o, v, mail + odd * PROBABILITIES_BYTES, ADDER_TILES);
    if (more) {
      named_barrier(KEYS_USED + (odd ^ 1), 256);
      start_copies(pass, at, odd ^ 1);
      prefetch_lines(pass, at);
    }
    wgmma_wait();
    if (j + 2 * KEYS < pass->last) arrive(SUMMED + odd, 256);
#pragma unroll
    for (int i = 0; i < 4 * ADDER_TILES; ++i) v[i] = next[i];
    odd ^= 1;
  }
}
#endif
