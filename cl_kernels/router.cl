// From logits [T, E] to the K chosen experts of each row and their weights (DeepSeek-V2 section
// 2.1.2, DeepSeek-V3 section 2.1.2); the rule is that of cpu_kernels/router.h:
//   score  = softmax(logits) over E, or sigmoid        key = score + bias
//   groups : the topk_group of n_group with the largest (1) maximum of key, or (2) sum of the two
//            largest keys; the other groups' keys become -inf
//   ids    = the K largest keys, falling, the lower index first among equals
//   weights = their scores
// A work-group per row. An expert's place is the number of keys that beat its own: no rounds of
// maxima, no barriers between choices. NaN counts as -inf: ids are always K different experts.
//   router_f32      global (ROUTER_GROUP, T)   local (ROUTER_GROUP, 1)
//   router_one_row  global (ROUTER_GROUP)      local (ROUTER_GROUP)
//   both and linear_one_routed (router_linear.cl): E <= 1024, n_group <= 64
#ifndef ROUTER_GROUP  // else a program with other kernels
#define ROUTER_GROUP 64
#define ROUTER_KERNELS
#endif
#define ENTRY_WORDS 14  // as in group.cl
#define ENTRY_SLAB 12
#define MAX_EXPERTS 1024
#define MAX_GROUPS 64
#define SIGMOID 1
#define GREEDY 0
#define GROUP_LIMITED 1

// A choice by shuffles is part of router_shared.cl's launch, and off where that is.
#ifdef ROUTER_SHARED
#define ROUTER_SHUFFLES (NV_COMPUTE >= 70)
#else
#define ROUTER_SHUFFLES 0
#endif

#if ROUTER_SHUFFLES
// Of the values of a warp, in each of its work-items.
INLINE float router_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += from_lane(v, step);
  return v;
}
INLINE float router_largest(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmax(v, from_lane(v, step));
  return v;
}
#endif

// How many of n keys come before key i.
INLINE int place_of(const local float* keys, int n, int i) {
  const float key = keys[i];
  int place = 0;
#if NV_COMPUTE > 0  // waits for local memory once in eight
#pragma unroll 8
#endif
  for (int j = 0; j < n; ++j) place += keys[j] > key || (keys[j] == key && j < i);
  return place;
}

// The same by work-items that follow each other, each for some of the keys: a power of two of them,
// of one warp.
#if ROUTER_SHUFFLES
INLINE int place_sharers(int n) {
  int sharers = 1;
  while (sharers < 16 && 2 * sharers * n <= ROUTER_GROUP) sharers *= 2;
  return sharers;
}
INLINE int shared_place_of(const local float* keys, int n, int i, int sharers) {
  const float key = keys[i];
  int place = 0;
#pragma unroll 8
  for (int j = (int)get_local_id(0) % sharers; j < n; j += sharers) {
    place += keys[j] > key || (keys[j] == key && j < i);
  }
  float sum = (float)place;
  for (int step = 1; step < sharers; step *= 2) sum += from_lane(sum, step);
  return (int)sum;
}
#else
INLINE int place_sharers(int n) { return 1; }
INLINE int shared_place_of(const local float* keys, int n, int i, int sharers) {
  return place_of(keys, n, i);
}
#endif

INLINE float group_key(const local float* keys, int size, int method) {
  float first = -INFINITY;
  float second = -INFINITY;
#if NV_COMPUTE > 0
#pragma unroll 8
#endif
  for (int j = 0; j < size; ++j) {
    second = fmax(second, fmin(first, keys[j]));
    first = fmax(first, keys[j]);
  }
  return method == GROUP_LIMITED || size == 1 ? first : first + second;
}

// Scores of the row, into local memory; `logits` is room for the row there. Other work-groups of
// the launch may have written the row.
INLINE void row_scores(const volatile global float* row, local float* logits, local float* scores,
                       int E, int scoring) {
  const int lid = (int)get_local_id(0);
  for (int e = lid; e < E; e += ROUTER_GROUP) logits[e] = row[e];
  barrier(CLK_LOCAL_MEM_FENCE);
#if ROUTER_SHUFFLES  // every warp for itself: no barriers between
  float most = -INFINITY;
  float total = 0.0f;
  if (scoring != SIGMOID) {
    for (int e = lid % 32; e < E; e += 32) most = fmax(most, logits[e]);
    most = router_largest(most);
    for (int e = lid % 32; e < E; e += 32) total += exp(logits[e] - most);
    total = router_sum(total);
  }
  for (int e = lid; e < E; e += ROUTER_GROUP) {
    scores[e] =
        scoring == SIGMOID ? 1.0f / (1.0f + exp(-logits[e])) : exp(logits[e] - most) / total;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
#else
  float largest = -INFINITY;
  if (scoring != SIGMOID) {
#if NV_COMPUTE > 0
#pragma unroll 8
#endif
    for (int e = 0; e < E; ++e) largest = fmax(largest, logits[e]);
  }
  for (int e = lid; e < E; e += ROUTER_GROUP) {
    scores[e] = scoring == SIGMOID ? 1.0f / (1.0f + exp(-logits[e])) : exp(logits[e] - largest);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  if (scoring == SIGMOID) return;
  float sum = 0.0f;
#if NV_COMPUTE > 0
#pragma unroll 8
#endif
  for (int e = 0; e < E; ++e) sum += scores[e];
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int e = lid; e < E; e += ROUTER_GROUP) scores[e] /= sum;
  barrier(CLK_LOCAL_MEM_FENCE);
#endif
}

typedef struct {
  int E, K, n_group, topk_group, scoring, method, normalise;
  float factor;
} rule_t;

typedef struct {
  float scores[MAX_EXPERTS + 1];
  float keys[MAX_EXPERTS];
  float group_keys[MAX_GROUPS];
  int kept[MAX_GROUPS];
  float chosen[MAX_EXPERTS];  // the scores of the ids
  int ids[MAX_EXPERTS + 1];
} room_t;

// One row; `bias` may be null. All items have read `logits` when this returns.
INLINE void route(const global float* logits, const global float* bias, rule_t r, global int* ids,
                  global float* weights, local room_t* room) {
  const int lid = (int)get_local_id(0);
  local float* scores = room->scores;
  local float* keys = room->keys;
  row_scores(logits, keys, scores, r.E, r.scoring);
  for (int e = lid; e < r.E; e += ROUTER_GROUP) {
    const float key = bias ? scores[e] + bias[e] : scores[e];
    keys[e] = isnan(key) ? -INFINITY : key;
  }
  barrier(CLK_LOCAL_MEM_FENCE);

  if (r.method != GREEDY) {
    const int size = r.E / r.n_group;
    for (int g = lid; g < r.n_group; g += ROUTER_GROUP) {
      room->group_keys[g] = group_key(keys + g * size, size, r.method);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int g = lid; g < r.n_group; g += ROUTER_GROUP) {
      room->kept[g] = place_of(room->group_keys, r.n_group, g) < r.topk_group;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int e = lid; e < r.E; e += ROUTER_GROUP) {
      if (!room->kept[e / size]) keys[e] = -INFINITY;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  const int sharers = place_sharers(r.E);
  for (int first = 0; first < r.E * sharers; first += ROUTER_GROUP) {
    const int e = (first + lid) / sharers;
    const int place = shared_place_of(keys, r.E, min(e, r.E - 1), sharers);
    if (place < r.K && e < r.E && lid % sharers == 0) {
      ids[place] = e;
      room->ids[place] = e;
      room->chosen[place] = scores[e];
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  float sum = 0.0f;
  if (r.normalise) {
    for (int k = 0; k < r.K; ++k) sum += room->chosen[k];
  }
  for (int k = lid; k < r.K; k += ROUTER_GROUP) {
    const float weight = r.normalise ? room->chosen[k] / (sum + 1e-20f) : room->chosen[k];
    weights[k] = weight * r.factor;
    room->keys[k] = weight * r.factor;  // for list_one_row
  }
}

#define ROUTER_ARGS                                                                               \
  const global float *logits, long logits_offset, const global float *bias, long bias_offset,     \
      int has_bias, global int *ids, long ids_offset, global float *weights, long weights_offset, \
      int E, int K, int n_group, int topk_group, int scoring, int method, int normalise,          \
      float factor

#define ROUTER_RULE \
  { E, K, n_group, topk_group, scoring, method, normalise, factor }

// The lists that group_pairs would make of a step's only row: a tile for each chosen expert that is
// on this device, in the order of the choices.
#define LIST_ARGS                                                                                \
  const global int *table, long table_offset, global int4 *tiles, long tiles_offset,            \
      global int *n_tiles, long n_tiles_offset, global int *pair_row, long pair_row_offset,      \
      global float *pair_weight, long pair_weight_offset, global int *token_pairs,               \
      long token_pairs_offset, int shared_entry
#define LIST_PASS                                                                              \
  table, table_offset, tiles, tiles_offset, n_tiles, n_tiles_offset, pair_row, pair_row_offset, \
      pair_weight, pair_weight_offset, token_pairs, token_pairs_offset, shared_entry

// After route, in the same work-group.
INLINE void list_one_row(local room_t* room, int E, int K, LIST_ARGS) {
  table += table_offset;
  const int lid = (int)get_local_id(0);
  const int C = K + shared_entry;
  for (int c = lid; c < C; c += ROUTER_GROUP) {
    const int expert = c < K ? room->ids[c] : E;
    room->ids[c] = expert;
    room->scores[c] = table[expert * ENTRY_WORDS + ENTRY_SLAB] >= 0 ? 1.0f : 0.0f;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int c = lid; c < C; c += ROUTER_GROUP) {
    int at = 0;
    for (int i = 0; i < c; ++i) at += room->scores[i] > 0.0f;
    const int here = room->scores[c] > 0.0f;
    token_pairs[token_pairs_offset + c] = here ? at : -1;
    if (here) {
      tiles[tiles_offset / 4 + at] = (int4)(room->ids[c], at, 1, 0);
      pair_row[pair_row_offset + at] = 0;
      pair_weight[pair_weight_offset + at] = c < K ? room->keys[c] : 1.0f;
    }
    if (c == C - 1) n_tiles[n_tiles_offset] = at + here;
  }
}

#ifdef ROUTER_KERNELS
kernel __attribute__((reqd_work_group_size(ROUTER_GROUP, 1, 1))) void router_f32(ROUTER_ARGS) {
  local room_t room;
  const long t = get_group_id(1);
  const rule_t rule = ROUTER_RULE;
  route(logits + logits_offset + t * E, has_bias ? bias + bias_offset : 0, rule,
        ids + ids_offset + t * K, weights + weights_offset + t * K, &room);
}

kernel __attribute__((reqd_work_group_size(ROUTER_GROUP, 1, 1))) void router_one_row(ROUTER_ARGS,
                                                                                    LIST_ARGS) {
  local room_t room;
  const rule_t rule = ROUTER_RULE;
  route(logits + logits_offset, has_bias ? bias + bias_offset : 0, rule, ids + ids_offset,
        weights + weights_offset, &room);
  list_one_row(&room, E, K, LIST_PASS);
}
#endif
