// What experts.cl and one_row_mma.cl share: the table of experts, the list of tiles and the
// arguments.

typedef struct {
  ulong gate, gate_side;
  ulong up, up_side;
  ulong down, down_side;
  int slab, F;
} entry_t;

// As ExpertWords in experts.cpp.
typedef struct {
  long D, F, T, C;
  long table_offset, tiles_offset, n_tiles_offset;  // in entries, tiles, ints
  long pair_row_offset, pair_weight_offset, token_pairs_offset;
  long x_offset, x_stride, x_aligned;
  long act_offset, act_aligned, out_offset;
  long y_offset, y_stride;
  long slab, ksplit;
  // 1: linear_one_routed_shared (router_shared.cl) made the last tile's act and, at out_offset of
  // `table`, a copy of each choice's entry; all C are here, choice c's pair being c.
  long chosen;
} experts_t;

#define EXPERT_LISTS                                                                       \
  const global uchar *weights, const global uchar *weights_b, const global entry_t *table, \
      const global int4 *tiles, const global int *n_tiles

// Of a tile: its expert, with F = 0 where it lies in another slab, its first pair and their number.
typedef struct {
  entry_t e;
  const global uchar* weights;  // its slab
  long pair0;
  int pairs;
} tile_t;

INLINE tile_t tile_at(const global uchar* weights, const global uchar* weights_b,
                      const global entry_t* table, const global int4* tiles, const experts_t* a,
                      long i) {
  const int4 words = tiles[a->tiles_offset + i];
  tile_t tile;
  tile.e = table[a->table_offset + words.x];
  tile.weights = tile.e.slab == a->slab ? weights : weights_b;
  if (tile.e.slab != a->slab && tile.e.slab != a->slab + 1) tile.e.F = 0;
  tile.pair0 = words.y;
  tile.pairs = words.z;
  return tile;
}

// Tile i of what a->chosen tells of: known after one wait for memory instead of three.
INLINE tile_t chosen_tile(const global uchar* weights, const global uchar* weights_b,
                          const global entry_t* table, const experts_t* a, int i) {
  tile_t tile;
  tile.e = ((const global entry_t*)((const global float*)table + a->out_offset))[i];
  tile.weights = tile.e.slab == 0 ? weights : weights_b;
  tile.pair0 = i;
  tile.pairs = 1;
  return tile;
}

INLINE matrix_t gate_of(tile_t tile, long D) {
  return matrix_at(tile.weights, tile.e.gate, tile.e.gate_side, tile.e.F, D);
}
INLINE matrix_t up_of(tile_t tile, long D) {
  return matrix_at(tile.weights, tile.e.up, tile.e.up_side, tile.e.F, D);
}
INLINE matrix_t down_of(tile_t tile, long D) {
  return matrix_at(tile.weights, tile.e.down, tile.e.down_side, D, tile.e.F);
}
