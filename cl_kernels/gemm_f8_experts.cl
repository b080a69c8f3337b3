// gemm_gate_up and gemm_down (gemm.cl) in FP8 through wgmma, for compute capability 9.0: x and act as
// e4m3_rows leaves them (e4m3.cl), weights in FP8. act is rounded in bf16 before, in a launch of its
// own, because a scale belongs to the columns of two tiles. Tiles of 128 pairs and 128 rows of weights; each
// warp gathers the rows of its 16 pairs (gemm_f8_wgmma.cl).
#if NV_COMPUTE == 90

// Row `row` of x, [rows, blocks * 128], for this work-item.
INLINE void f8_row(f8_rows_t* to, const int half8, const global float* x, long rows, int blocks,
                   long row) {
  to->codes[half8] = (const global uint4*)x + row * blocks * 8 + (int)get_local_id(0) % 4;
  to->scales[half8] = x + rows * blocks * 32 + row * blocks;
}

#define F8_EXPERT_TILE                                                                        \
  local uchar ring[2 * F8_STEP_BYTES] __attribute__((aligned(1024)));                         \
  const int lid = (int)get_local_id(0);                                                       \
  const int lane = lid % 32;                                                                  \
  const int first = lid / 32 * 16 + lane / 4;                                                 \
  if ((int)get_group_id(1) >= n_tiles[n_tiles_at]) return;                                    \
  const expert_tile_t tile =                                                                  \
      ((const global expert_tile_t*)(tile_list + tiles_offset))[get_group_id(1)];             \
  const global expert_t* const e = (const global expert_t*)(table + table_offset) + tile.expert; \
  const global uchar* const slab = e->slab == slab_index ? slab_a : slab_b;                   \
  if ((uint)(e->slab - slab_index) > 1) return;                                               \
  const uint memory = shared_address(ring);                                                   \
  const uint mine = memory + f8_swizzled((uint)lid / 8, (uint)lid % 8);                       \
  f8_weights_t weights;                                                                       \
  f8_rows_t rows;                                                                             \
  float sums[2][32]

// x has T rows.                                     global ceil(F / 64) * 256, max_tiles
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_gate_up_f8(
    EXPERT_ARGS, const global int* pair_row, long pair_row_offset, const global float* pair_weight,
    long pair_weight_offset, const global float* x, long x_offset, global float* act,
    long act_offset, int T, int D, int F) {
  F8_EXPERT_TILE;
  const int n0 = (int)get_group_id(0) * 64;
  if (n0 >= e->F) return;
  const int steps = (D + F8_COLUMNS - 1) / F8_COLUMNS;
  weights.at[0] = slab + e->gate;
  weights.at[1] = slab + e->up;
  weights.scales[0] = (const global float*)(slab + e->gate_side) + (long)(n0 / 128) * steps;
  weights.scales[1] = (const global float*)(slab + e->up_side) + (long)(n0 / 128) * steps;
  weights.offset = (uint)(n0 + lid / 8) * (uint)D + (uint)(lid % 8 * 16);
  weights.rows = e->F - n0 - lid / 8;
  weights.apart = 0;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int pair = tile.first_pair + min(first + h * 8, tile.n_pairs - 1);
    f8_row(&rows, h, x + x_offset, T, steps, pair_row[pair_row_offset + pair]);
  }
  f8_half_tile(sums, memory, mine, &weights, &rows, 1, steps, D);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (first + h * 8 < tile.n_pairs) {
      const long pair = tile.first_pair + first + h * 8;
      const float weight = pair_weight[pair_weight_offset + pair];
      global ushort* const to = (global ushort*)(act + act_offset) + pair * F;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int f = n0 + i * 8 + lane % 4 * 2;
        const float* const c = &sums[0][i * 4 + h * 2];
        const float* const u = &sums[1][i * 4 + h * 2];
        if (f < e->F) {  // which is even
          *(global uint*)(to + f) =
              bf16_pair(weight * (quick_silu(c[0]) * u[0]), weight * (quick_silu(c[1]) * u[1]));
        }
      }
    }
  }
}

// The bf16 rows of act, of F, that gemm_gate_up_f8 left, to `out` as e4m3_rows would; `pairs` of them.
//                                                   global ceil(F / 128) * 8 * 256, max_tiles
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_act_f8(
    EXPERT_ARGS, const global float* act, long act_offset, global float* out, long out_offset,
    int pairs, int F) {
  local float most[256];
  const int lid = (int)get_local_id(0);
  if ((int)get_group_id(1) >= n_tiles[n_tiles_at]) return;
  const expert_tile_t tile =
      ((const global expert_tile_t*)(tile_list + tiles_offset))[get_group_id(1)];
  const global expert_t* const e = (const global expert_t*)(table + table_offset) + tile.expert;
  const int block = (int)get_group_id(0) / 8 * F8_COLUMNS;
  const int row = (int)get_group_id(0) % 8 * 16 + lid / 16;
  if ((uint)(e->slab - slab_index) > 1 || block >= e->F || row / 16 * 16 >= tile.n_pairs) return;
  const int k = block + lid % 16 * 8;
  const int inside = row < tile.n_pairs;
  const long pair = tile.first_pair + row;
  float8 v = (float8)(0.0f);
  if (inside && k < e->F) {
    const global ushort* const from = (const global ushort*)(act + act_offset) + pair * F + k;
    const uint4 words = *(const global uint4*)from;
    v = f32_of_bf16((uint8)(words.x & 0xffff, words.x >> 16, words.y & 0xffff, words.y >> 16,
                            words.z & 0xffff, words.z >> 16, words.w & 0xffff, words.w >> 16));
  }
  e4m3_row_piece(v, inside, pair, k, pairs, F, (global uint*)(out + out_offset), most);
}

// act has `pairs` rows of F, as gemm_act_f8 left them, F the largest of the experts'.
//                                                   global ceil(D / 128) * 256, max_tiles
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_down_f8(
    EXPERT_ARGS, const global float* act, long act_offset, long pairs, global float* out,
    long out_offset, int D, int F) {
  F8_EXPERT_TILE;
  const int n0 = (int)get_group_id(0) * 128;
  const int K = e->F;
  const int steps = (K + F8_COLUMNS - 1) / F8_COLUMNS;
  weights.at[0] = slab + e->down;
  weights.at[1] = slab + e->down + 64ul * (ulong)K;
  weights.scales[0] = (const global float*)(slab + e->down_side) + (long)(n0 / 128) * steps;
  weights.scales[1] = weights.scales[0];
  weights.offset = (uint)(n0 + lid / 8) * (uint)K + (uint)(lid % 8 * 16);
  weights.rows = D - n0 - lid / 8;
  weights.apart = 64;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    f8_row(&rows, h, act + act_offset, pairs, (F + F8_COLUMNS - 1) / F8_COLUMNS,
           tile.first_pair + min(first + h * 8, tile.n_pairs - 1));
  }
  f8_half_tile(sums, memory, mine, &weights, &rows, 1, steps, K);
  f8_store_half(sums, out + out_offset + (long)tile.first_pair * D, D, first, n0, tile.n_pairs, D,
                MODE_STORE, out_offset % 2 == 0 && D % 2 == 0);
}
#endif  // NV_COMPUTE
