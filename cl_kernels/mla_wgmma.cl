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
// as its scores are there and its values fetched. How keys come depends on the cache's type:
// mla_wgmma_boxes.cl, mla_wgmma_f8.cl. L2 is asked for them 64 ahead.
//
// A product with 16 keys takes 13 to 17 clocks, twice what its size asks for, and longer ones do
// not fit: 32 keys are 36 KiB. A tile of 64 columns takes 32.
#if NV_COMPUTE == 90 && KVTYPE != KVTYPE_F32

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
  pass.phases = 0;
  pass.row = first_slot / H;
  pass.first = (int)get_group_id(2) * run;
  const long part = (long)first_slot * splits + get_group_id(2);
  parts += parts_offset + part * 512;
  at.map = (global uchar*)((ulong)parts + 127 & ~127ul);
  parts += warp * 16 + lane / 4;
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
#if KVTYPE != KVTYPE_F8
    named_barrier(PREPARED, 256);
#endif
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
#if KVTYPE == KVTYPE_F8
    while (next_pass(&pass, &at, table_start, n_keys, last_row, run)) add_pass(o, &at, &pass);
#else
    int more = next_pass(&pass, &at, table_start, n_keys, last_row, run);
    if (more) copy_first(&pass, &at);
    prepare_copies(&at);
    arrive(PREPARED, 256);
    if (more) count_first(&pass, &at);
    while (more) {
      add_pass(o, &at, &pass);
      more = next_pass(&pass, &at, table_start, n_keys, last_row, run);
      if (more) start_pass(&pass, &at);
    }
#endif
    named_barrier(ALL, 256);
    named_barrier(ALL, 256);
    store_sums(parts + SCORER_TILES * 64, o, factors, slots, splits, lane, ADDER_TILES);
  }
}
#endif
