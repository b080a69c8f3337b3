// From logits [T, E] to the K chosen experts of each row and their weights (DeepSeek-V2 section
// 2.1.2, DeepSeek-V3 section 2.1.2); the rule is that of cpu_kernels/router.h:
//   score  = softmax(logits) over E, or sigmoid        key = score + bias
//   groups : the topk_group of n_group with the largest (1) maximum of key, or (2) sum of the two
//            largest keys; the other groups' keys become -inf
//   ids    = the K largest keys, falling, the lower index first among equals
//   weights = their scores
// A work-group per row. An expert's place is the number of keys that beat its own: no rounds of
// maxima, no barriers between choices. NaN counts as -inf: ids are always K different experts.
//   router_f32  global (ROUTER_GROUP, T)   local (ROUTER_GROUP, 1)      E <= 1024, n_group <= 64
#ifndef ROUTER_GROUP
#define ROUTER_GROUP 64
#endif
#define MAX_EXPERTS 1024
#define MAX_GROUPS 64
#define SIGMOID 1
#define GREEDY 0
#define GROUP_LIMITED 1

// How many of n keys come before key i.
INLINE int place_of(const local float* keys, int n, int i) {
  const float key = keys[i];
  int place = 0;
  for (int j = 0; j < n; ++j) place += keys[j] > key || (keys[j] == key && j < i);
  return place;
}

INLINE float group_key(const local float* keys, int size, int method) {
  float first = -INFINITY;
  float second = -INFINITY;
  for (int j = 0; j < size; ++j) {
    second = fmax(second, fmin(first, keys[j]));
    first = fmax(first, keys[j]);
  }
  return method == GROUP_LIMITED || size == 1 ? first : first + second;
}

// Scores of the row, into local memory.
INLINE void row_scores(const global float* logits, local float* scores, int E, int scoring) {
  const int lid = (int)get_local_id(0);
  float largest = -INFINITY;
  if (scoring != SIGMOID) {
    for (int e = 0; e < E; ++e) largest = fmax(largest, logits[e]);
  }
  for (int e = lid; e < E; e += ROUTER_GROUP) {
    scores[e] = scoring == SIGMOID ? 1.0f / (1.0f + exp(-logits[e])) : exp(logits[e] - largest);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  if (scoring == SIGMOID) return;
  float sum = 0.0f;
  for (int e = 0; e < E; ++e) sum += scores[e];
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int e = lid; e < E; e += ROUTER_GROUP) scores[e] /= sum;
  barrier(CLK_LOCAL_MEM_FENCE);
}

kernel __attribute__((reqd_work_group_size(ROUTER_GROUP, 1, 1))) void router_f32(
    const global float* logits, long logits_offset, const global float* bias, long bias_offset,
    int has_bias, global int* ids, long ids_offset, global float* weights, long weights_offset,
    int E, int K, int n_group, int topk_group, int scoring, int method, int normalise,
    float factor) {
  local float scores[MAX_EXPERTS];
  local float keys[MAX_EXPERTS];
  local float group_keys[MAX_GROUPS];
  local int kept[MAX_GROUPS];
  local float chosen[MAX_EXPERTS];
  const int lid = (int)get_local_id(0);
  const long t = get_group_id(1);
  row_scores(logits + logits_offset + t * E, scores, E, scoring);
  for (int e = lid; e < E; e += ROUTER_GROUP) {
    const float key = has_bias ? scores[e] + bias[bias_offset + e] : scores[e];
    keys[e] = isnan(key) ? -INFINITY : key;
  }
  barrier(CLK_LOCAL_MEM_FENCE);

  if (method != GREEDY) {
    const int size = E / n_group;
    for (int g = lid; g < n_group; g += ROUTER_GROUP) {
      group_keys[g] = group_key(keys + g * size, size, method);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int g = lid; g < n_group; g += ROUTER_GROUP) {
      kept[g] = place_of(group_keys, n_group, g) < topk_group;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int e = lid; e < E; e += ROUTER_GROUP) {
      if (!kept[e / size]) keys[e] = -INFINITY;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  for (int e = lid; e < E; e += ROUTER_GROUP) {
    const int place = place_of(keys, E, e);
    if (place < K) {
      ids[ids_offset + t * K + place] = e;
      chosen[place] = scores[e];
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  float sum = 0.0f;
  for (int k = 0; k < K; ++k) sum += chosen[k];
  for (int k = lid; k < K; k += ROUTER_GROUP) {
    const float weight = normalise ? chosen[k] / (sum + 1e-20f) : chosen[k];
    weights[weights_offset + t * K + k] = weight * factor;
  }
}
