// Groups the pairs (row t, choice c) of a MoE layer by expert (GroupArgs of args.h): a counting
// sort in local memory, so that expert ids never travel to the host. An expert's pairs keep the
// order of the rows.
//   ids i32 [T, K]   weights f32 [T, K]   table : words of ExpertEntry [E + shared]
//   tiles : int4 (expert, first_pair, n_pairs, 0)   pair_row, pair_weight, token_pairs : see args.h
//   group_pairs  global (groups * GROUP)   local (GROUP)
//       any number of work-groups, one for up to FEW_PAIRS pairs: each places its share of them,
//       and counts all choices for itself, which takes less time than waiting for another launch
#define ENTRY_WORDS 14
#define ENTRY_SLAB 12
#define MAX_ENTRIES 513
#define FEW_PAIRS 64
// Of rounds: PoCL 5 does not compile barriers in loops, and one item needs none.
#if GROUP == 1
#define ROUND_BARRIER()
#else
#define ROUND_BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#endif

typedef struct {
  const global int* ids;
  const global float* weights;
  const global int* table;
  int K, C, E, aligned;
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

typedef struct {
  int count[MAX_ENTRIES];  // pairs
  int first[MAX_ENTRIES];  // pairs of experts before
  int tile[MAX_ENTRIES];   // tiles of experts before
  int next[MAX_ENTRIES];   // where the next pair goes; negative: not on this device
  int2 sums[GROUP];
  int4 expert[(GROUP + 3) / 4];
} group_room_t;

INLINE void count_id(const pairs_t* p, local int* count, int e) {
  if ((uint)e < (uint)p->E) atomic_inc(count + e);
}

// count[e] += how many of ids[from, to) are e. Reads are asked for before the first is counted.
#define IDS_AHEAD 8
INLINE void count_ids(const pairs_t* p, local int* count, int from, int to) {
  const int lid = (int)get_local_id(0);
  const int first = p->aligned ? min((from + 3) / 4 * 4, to) : to;
  const int last = max(to / 4 * 4, first);
  for (int i = from + lid; i < first; i += GROUP) count_id(p, count, p->ids[i]);
  for (int i = last + lid; i < to; i += GROUP) count_id(p, count, p->ids[i]);
  for (int base = first; base < last; base += IDS_AHEAD * 4 * GROUP) {
    int4 ids[IDS_AHEAD];
#pragma unroll
    for (int j = 0; j < IDS_AHEAD; ++j) {
      const int i = base + (j * GROUP + lid) * 4;
      ids[j] = i < last ? *(const global int4*)(p->ids + i) : (int4)(-1);
    }
#pragma unroll
    for (int j = 0; j < IDS_AHEAD; ++j) {
      count_id(p, count, ids[j].x);
      count_id(p, count, ids[j].y);
      count_id(p, count, ids[j].z);
      count_id(p, count, ids[j].w);
    }
  }
}

// The counts of all pairs and, in `next`, of those before pair `from`.
INLINE void count_pairs(const pairs_t* p, local group_room_t* room, int T, int entries, int from) {
  const int lid = (int)get_local_id(0);
  const int before = from / p->C * p->K + min(from % p->C, p->K);
  for (int e = lid; e < entries; e += GROUP) room->count[e] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  count_ids(p, room->count, 0, before);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int e = lid; e < entries; e += GROUP)
    room->next[e] = e < p->E ? room->count[e] : from / p->C;
  barrier(CLK_LOCAL_MEM_FENCE);
  count_ids(p, room->count, before, T * p->K);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int e = lid; e < entries; e += GROUP) {
    const int count = e == p->E ? T : room->count[e];
    room->count[e] = p->table[e * ENTRY_WORDS + ENTRY_SLAB] < 0 ? 0 : count;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
}

// This work-group's share of the list of tiles: every so many-th expert, one a work-item.
INLINE void put_tiles(const local group_room_t* room, int entries, int tile_rows,
                      global int4* tiles) {
  const int groups = (int)get_num_groups(0);
  const int mine = (int)get_group_id(0) + groups * (int)get_local_id(0);
  for (int e = mine; e < entries; e += groups * GROUP) {
    const int count = room->count[e];
    global int4* const to = tiles + room->tile[e];
    for (int at = 0; at < count; at += tile_rows) {
      to[at / tile_rows] = (int4)(e, room->first[e] + at, min(tile_rows, count - at), 0);
    }
  }
}

// Pairs [from, to), GROUP of them at a time: a pair comes behind those of its expert before it.
INLINE void put_pairs(const pairs_t* p, local group_room_t* room, int from, int to, int rounds) {
  const int lid = (int)get_local_id(0);
  local int* const expert = (local int*)room->expert;
  for (int i = GROUP + lid; i < (GROUP + 3) / 4 * 4; i += GROUP) expert[i] = -1;
  for (int round = 0; round < rounds; ++round) {
    const int i = from + round * GROUP + lid;
    const int c = i % p->C;
    const int id = i >= to ? -1 : c < p->K ? p->ids[i / p->C * p->K + c] : p->E;
    const int e = id < 0 || (c < p->K && id >= p->E) ? -1 : id;
    expert[lid] = e;
    ROUND_BARRIER();
    int before = 0;
    int same = 0;
    for (int j = 0; j < (GROUP + 3) / 4; ++j) {
      const int4 equal = room->expert[j] == e;  // -1 where it is
      const int4 behind = (int4)(4 * j, 4 * j + 1, 4 * j + 2, 4 * j + 3) < lid;
      const int4 both = equal & behind;
      same -= equal.x + equal.y + equal.z + equal.w;
      before -= both.x + both.y + both.z + both.w;
    }
    const int next = e < 0 ? -1 : room->next[e];
    if (i < to) put_pair(p, i, next < 0 ? -1 : next + before);
    ROUND_BARRIER();
    if (next >= 0 && before == 0) room->next[e] = next + same;
  }
}

INLINE void group_many(const pairs_t* p, int T, int entries, int tile_rows, global int4* tiles,
                       global int* n_tiles, local group_room_t* room) {
  const int lid = (int)get_local_id(0);
  const int groups = (int)get_num_groups(0);
  const int n = T * p->C;
  const int share = ((n + groups - 1) / groups + GROUP - 1) / GROUP * GROUP;
  const int from = min((int)get_group_id(0) * share, n);
  count_pairs(p, room, T, entries, from);
  const int total = prefix(room->count, room->first, room->tile, entries, tile_rows, room->sums);
  if (lid == 0 && get_group_id(0) == 0) *n_tiles = total;
  for (int e = lid; e < entries; e += GROUP) {
    const int here = p->table[e * ENTRY_WORDS + ENTRY_SLAB] >= 0;
    room->next[e] = here ? room->first[e] + room->next[e] : -1;
  }
  put_tiles(room, entries, tile_rows, tiles);
  barrier(CLK_LOCAL_MEM_FENCE);
  put_pairs(p, room, from, min(from + share, n), share / GROUP);
}

#define GROUP_ARGS                                                                          \
  const global int *ids, long ids_offset, const global float *weights, long weights_offset, \
      const global int *table, long table_offset, global int *tiles, long tiles_offset,     \
      global int *n_tiles, long n_tiles_offset, global int *pair_row, long pair_row_offset, \
      global float *pair_weight, long pair_weight_offset, global int *token_pairs,          \
      long token_pairs_offset, int T, int K, int E, int shared_entry, int tile_rows

#define GROUP_PAIRS                                                                           \
  {                                                                                           \
    ids + ids_offset, weights + weights_offset, table + table_offset, K, K + shared_entry, E, \
        ids_offset % 4 == 0, pair_row + pair_row_offset, pair_weight + pair_weight_offset,    \
        token_pairs + token_pairs_offset                                                      \
  }

// Two kernels: PoCL 3.1 spoils memory where work-groups choose between barriers.
kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void group_few_pairs(GROUP_ARGS) {
  local int expert[FEW_PAIRS];
  local int rank[FEW_PAIRS];
  const pairs_t p = GROUP_PAIRS;
  group_few(&p, T * p.C, tile_rows, (global int4*)(tiles + tiles_offset), n_tiles + n_tiles_offset,
            expert, rank);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void group_pairs(GROUP_ARGS) {
  local group_room_t room;
  const pairs_t p = GROUP_PAIRS;
  group_many(&p, T, E + shared_entry, tile_rows, (global int4*)(tiles + tiles_offset),
             n_tiles + n_tiles_offset, &room);
}
