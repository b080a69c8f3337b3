// The launch of router_linear.cl for a layer whose experts are all on this device, with gate and up
// of the shared expert in the work-groups behind: they do not depend on the choice, which few
// work-groups make, waiting for memory and for each other most of the time. For shared experts in
// formats of eight bits and a router in f32, bf16 or f16.
//
//   linear_one_routed_shared   act[n] = silu(gate_n . x') * (up_n . x'), x' the norm of x, and what
//                              linear_one_routed does
//     local (TEAM * ONE_WARPS, 1, 1)
//     groups: r.groups = ceil(E / SCORE_ROWS) for the scores, then any number for act
//     E < MOST_ENTRIES; D a multiple of PIECE, at most SPAN; x, norm_w and the router's rows on 16
//     bytes, table and chosen on 8
#if defined(ROUTER_SHARED) && defined(ONE_ROW_MMA) && BYTE_CODES

#if ROUTER_GROUP != TEAM * ONE_WARPS
#error "the choice is made by one of these work-groups"
#endif
#define SCORE_ROWS 4  // of a work-group
#define MOST_ENTRIES 257
#define ENTRY_PAIRS (ENTRY_WORDS / 2)
#define ENTRIES_AT ((int)(sizeof(room_t) / 16) + 1)

// As RoutedWords in router_shared.cpp. Offsets in elements but for w_offset.
typedef struct {
  ulong w_offset;
  long scores_offset, bias_offset, ids_offset, weights_offset;
  long tiles_offset, n_tiles_offset, pair_row_offset, pair_weight_offset, token_pairs_offset;
  long table_offset, chosen_offset;  // in 4 bytes
  int type, groups, has_bias, reserved;
  rule_t rule;
} routed_t;

// Eight weights of the router from the k-th on.
INLINE float8 score_weights8(const global uchar* w, long k, const int type) {
  if (type == WTYPE_F32) return load8((const global float*)w + k, 1);
  const uint8 bits = convert_uint8(as_ushort8(*(const global uint4*)(w + 2 * k)));
  return type == WTYPE_BF16 ? f32_of_bf16(bits) : f32_of_f16(bits);
}

// SCORE_ROWS scores. Each work-item takes eight columns at a time, straight to registers, so that
// one wait for memory serves all.
INLINE void put_scores(const global float* x, const global uchar* w, const global float* norm_w,
                       const linear_t* a, int E, global float* scores, local float* room, int row0,
                       const int type) {
  const int lid = (int)get_local_id(0);
  float sum[SCORE_ROWS + 1];
#pragma unroll
  for (int r = 0; r <= SCORE_ROWS; ++r) sum[r] = 0.0f;
  for (int k = lid * 8; k < (int)a->K; k += ROUTER_GROUP * 8) {
    float8 weights[SCORE_ROWS];
#pragma unroll
    for (int r = 0; r < SCORE_ROWS; ++r) {
      weights[r] = score_weights8(w, min(row0 + r, E - 1) * a->K + k, type);
    }
    const float8 norm = load8(norm_w + k, 1);
    const float8 v = load8(x + k, 1);
    sum[SCORE_ROWS] = dot8(v, v, sum[SCORE_ROWS]);
#pragma unroll
    for (int r = 0; r < SCORE_ROWS; ++r) sum[r] = dot8(weights[r], v * norm, sum[r]);
  }
#pragma unroll
  for (int r = 0; r <= SCORE_ROWS; ++r) {
    sum[r] = warp_sum(sum[r]);
    if (lid % TEAM == 0) room[lid / TEAM * (SCORE_ROWS + 1) + r] = sum[r];
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid >= SCORE_ROWS || row0 + lid >= E) return;
  float total = 0.0f;
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < ONE_WARPS; ++i) {
    total += room[i * (SCORE_ROWS + 1) + lid];
    squares += room[i * (SCORE_ROWS + 1) + SCORE_ROWS];
  }
  scores[row0 + lid] = total * rsqrt(squares / (float)a->K + a->eps);
}

// The table to local memory, while the scores are computed: the choice waits for memory no more. It
// is there after wait_for_copies.
INLINE void fetch_entries(local uint2* to, const global uint2* table, int entries) {
  for (int i = (int)get_local_id(0); i < entries * ENTRY_PAIRS; i += ROUTER_GROUP) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;"
                 :
                 : "r"((uint)(ulong)(to + i)), "l"(table + i)
                 : "memory");
  }
}

// list_one_row where every expert is here, and the entries of the chosen ones.
INLINE void list_all_choices(const local room_t* room, const local uint2* entries,
                             const routed_t* r, global int* lists, global uint2* chosen) {
  const int C = r->rule.K + 1;
  for (int c = (int)get_local_id(0); c < C; c += ROUTER_GROUP) {
    const int shared = c == r->rule.K;
    ((global int4*)lists)[r->tiles_offset / 4 + c] =
        (int4)(shared ? r->rule.E : room->ids[c], c, 1, 0);
    lists[r->pair_row_offset + c] = 0;
    lists[r->token_pairs_offset + c] = c;
    ((global float*)lists)[r->pair_weight_offset + c] = shared ? 1.0f : room->keys[c];
    if (c == 0) lists[r->n_tiles_offset] = C;
  }
  for (int i = (int)get_local_id(0); i < C * ENTRY_PAIRS; i += ROUTER_GROUP) {
    const int c = i / ENTRY_PAIRS;
    const int expert = c == r->rule.K ? r->rule.E : room->ids[c];
    chosen[i] = entries[expert * ENTRY_PAIRS + i % ENTRY_PAIRS];
  }
}

kernel __attribute__((reqd_work_group_size(ROUTER_GROUP, 1, 1))) void linear_one_routed_shared(
    const global float* x, const global float* norm_w, global float* norm_out,
    const global uchar* slab, global float* act, linear_t a, const global uchar* w,
    global float* scores, const global float* bias, global int* ids, global float* weights,
    global int* lists, const global int* table, global float* chosen, global int* arrived,
    routed_t r) {
  local uint4 pool[LINEAR_POOL];
  local int last;
  const int group = (int)get_group_id(0);
  if (group >= r.groups) {
    const part_t all = whole_part(group - r.groups, (int)get_num_groups(0) - r.groups);
    linear_one_mma_group(pool, x, slab, slab, act, act, norm_w, norm_out, 0, &a, &all);
    return;
  }
  x += a.x_offset;
  w += r.w_offset;
  norm_w += a.norm_offset;
  scores += r.scores_offset;
  local float* const sums = (local float*)pool;
  local uint2* const entries = (local uint2*)(pool + ENTRIES_AT);
  fetch_entries(entries, (const global uint2*)(table + r.table_offset), r.rule.E + 1);
  const int row0 = group * SCORE_ROWS;
  const int E = r.rule.E;
  if (r.type == WTYPE_F32) put_scores(x, w, norm_w, &a, E, scores, sums, row0, WTYPE_F32);
  if (r.type == WTYPE_BF16) put_scores(x, w, norm_w, &a, E, scores, sums, row0, WTYPE_BF16);
  if (r.type == WTYPE_F16) put_scores(x, w, norm_w, &a, E, scores, sums, row0, WTYPE_F16);
  wait_for_copies();
  if (!is_last_group(arrived, r.groups, &last)) return;
  local room_t* const room = (local room_t*)pool;
  route(scores, r.has_bias ? bias + r.bias_offset : 0, r.rule, ids + r.ids_offset,
        weights + r.weights_offset, room);
  list_all_choices(room, entries, &r, lists, (global uint2*)(chosen + r.chosen_offset));
}

#endif
