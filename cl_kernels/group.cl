// Groups the pairs (row t, choice c) of a MoE layer by expert (GroupArgs of args.h): a counting
// sort in local memory, so that expert ids never travel to the host.
//   ids i32 [T, K]   weights f32 [T, K]   table : words of ExpertEntry [E + shared]
//   tiles : int4 (expert, first_pair, n_pairs, 0)   pair_row, pair_weight, token_pairs : see args.h
//   group_pairs  global (GROUP)   local (GROUP): one work-group
#define ENTRY_WORDS 14
#define ENTRY_SLAB 12
#define MAX_ENTRIES 513
#define FEW_PAIRS 64

typedef struct {
  const global int* ids;
  const global float* weights;
  const global int* table;
  int K, C, E;
  global int* pair_row;
  global float* pair_weight;
  global int* token_pairs;
} pairs_t;

// The expert of pair i if it is on this device, else -1.
INLINE int expert_of(const pairs_t* p, int i) {
  const int c = i % p->C;
  const int e = c < p->K ? p->ids[i / p->C * p->K + c] : p->E;
  if (e < 0 || (c < p->K && e >= p->E)) return -1;
  return p->table[e * ENTRY_WORDS + ENTRY_SLAB] < 0 ? -1 : e;
}

INLINE void put_pair(const pairs_t* p, int i, int at) {
  p->token_pairs[i] = at;
  if (at < 0) return;
  const int c = i % p->C;
  p->pair_row[at] = i / p->C;
  p->pair_weight[at] = c < p->K ? p->weights[i / p->C * p->K + c] : 1.0f;
}

// A few pairs (one token's, or some): each counts those before it. No counter, two barriers.
INLINE void group_few(const pairs_t* p, int n, int n_tile_rows, global int4* tiles,
                      global int* n_tiles, local int* expert, local int* rank) {
  const int lid = (int)get_local_id(0);
  for (int i = lid; i < n; i += GROUP) expert[i] = expert_of(p, i);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = lid; i < n; i += GROUP) {
    int before = 0;
    for (int j = 0; j < i; ++j) before += expert[j] == expert[i];
    rank[i] = before;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = lid; i < n; i += GROUP) {
    const int e = expert[i];
    int at = 0;
    int tile = 0;
    int count = 0;
    for (int j = 0; j < n; ++j) {
      const int starts = expert[j] >= 0 && rank[j] % n_tile_rows == 0;
      const int first = expert[j] < e || (expert[j] == e && j < i);
      at += expert[j] >= 0 && first;
      tile += starts && first;
      count += expert[j] == e;
    }
    put_pair(p, i, e < 0 ? -1 : at);
    if (e >= 0 && rank[i] % n_tile_rows == 0) {
      tiles[tile] = (int4)(e, at, min(n_tile_rows, count - rank[i]), 0);
    }
  }
  if (lid == 0) {
    int total = 0;
    for (int j = 0; j < n; ++j) total += expert[j] >= 0 && rank[j] % n_tile_rows == 0;
    *n_tiles = total;
  }
}

// first[e] and tile[e] become the sums of what lies before e, of pairs and of tiles; returns the
// number of tiles. Each item adds up neighbouring entries; their sums are added in steps of 2^i.
INLINE int prefix(const local int* count, local int* first, local int* tile, int entries,
                  int tile_rows, local int2* sums) {
  const int lid = (int)get_local_id(0);
  const int each = (entries + GROUP - 1) / GROUP;
  const int from = min(lid * each, entries);
  const int to = min(from + each, entries);
  int2 mine = (int2)(0, 0);
  for (int e = from; e < to; ++e) {
    mine += (int2)(count[e], (count[e] + tile_rows - 1) / tile_rows);
  }
  sums[lid] = mine;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = 1; step < GROUP; step *= 2) {
    const int2 left = lid >= step ? sums[lid - step] : (int2)(0, 0);
    barrier(CLK_LOCAL_MEM_FENCE);
    sums[lid] += left;
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  int2 at = sums[lid] - mine;
  for (int e = from; e < to; ++e) {
    first[e] = at.x;
    tile[e] = at.y;
    at += (int2)(count[e], (count[e] + tile_rows - 1) / tile_rows);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  return sums[GROUP - 1].y;
}

INLINE void group_many(const pairs_t* p, int n, int entries, int tile_rows, global int4* tiles,
                       global int* n_tiles, local int* count, local int* first, local int* tile,
                       local int2* sums) {
  const int lid = (int)get_local_id(0);
  for (int e = lid; e < entries; e += GROUP) count[e] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = lid; i < n; i += GROUP) {
    const int e = expert_of(p, i);
    if (e >= 0) atomic_inc(count + e);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  const int total = prefix(count, first, tile, entries, tile_rows, sums);
  if (lid == 0) *n_tiles = total;
  for (int e = lid; e < entries; e += GROUP) {
    for (int at = 0; at < count[e]; at += tile_rows) {
      tiles[tile[e] + at / tile_rows] = (int4)(e, first[e] + at, min(tile_rows, count[e] - at), 0);
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  // From here on first[e] is where the next pair of e goes.
  for (int i = lid; i < n; i += GROUP) {
    const int e = expert_of(p, i);
    put_pair(p, i, e < 0 ? -1 : atomic_inc(first + e));
  }
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void group_pairs(
    const global int* ids, long ids_offset, const global float* weights, long weights_offset,
    const global int* table, long table_offset, global int* tiles, long tiles_offset,
    global int* n_tiles, long n_tiles_offset, global int* pair_row, long pair_row_offset,
    global float* pair_weight, long pair_weight_offset, global int* token_pairs,
    long token_pairs_offset, int T, int K, int E, int shared_entry, int tile_rows) {
  local int count[MAX_ENTRIES];
  local int first[MAX_ENTRIES];
  local int tile[MAX_ENTRIES];
  local int2 sums[GROUP];
  pairs_t p;
  p.ids = ids + ids_offset;
  p.weights = weights + weights_offset;
  p.table = table + table_offset;
  p.K = K;
  p.C = K + shared_entry;
  p.E = E;
  p.pair_row = pair_row + pair_row_offset;
  p.pair_weight = pair_weight + pair_weight_offset;
  p.token_pairs = token_pairs + token_pairs_offset;
  global int4* out = (global int4*)(tiles + tiles_offset);
  n_tiles += n_tiles_offset;
  const int n = T * p.C;
  if (n <= FEW_PAIRS) {  // the same for the whole work-group
    group_few(&p, n, tile_rows, out, n_tiles, count, first);
  } else {
    group_many(&p, n, E + shared_entry, tile_rows, out, n_tiles, count, first, tile, sums);
  }
}
