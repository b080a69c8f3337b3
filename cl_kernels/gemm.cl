// Products of many rows with matrices of weights on matrix units: x rounded to bf16, sums in f32.
// gemm_round runs on any device; the products need NV_COMPUTE >= 80, see gemm_tile.cl.
//
//   gemm_round    b[t, k] = bf16(x[t, k]), rows packed       global ceil(T K / 8 / 256) * 256
//   gemm_linear   y[t, n] (+)= sum_k x[t, k] w[n, k], or silu(x w^T) * (x w2^T)
//                                                             global ceil(T/BM) ceil(N/BN) * 256
//   gemm_gate_up  act[p, f] = pair_weight[p] silu(gate_e . x[row]) (up_e . x[row]), in bf16
//   gemm_down     pair_out[p, d] = down_e . act[p]
//                                                             global ceil(rows/BN) * 256, max_tiles
//   local (256, 1, 1) everywhere. The products do not fix it: NVIDIA's compiler then ignores
//   -cl-nv-maxrregcount, and with more than 128 registers one work-group fills a multiprocessor.
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_round(
    const global float* x, long x_offset, long x_stride, int aligned, int K, long eighths,
    global uint* out, long out_offset) {
  const long i = (long)get_global_id(0);
  if (i >= eighths) return;
  const long t = i / (K / 8);
  const float8 v = load8(x + x_offset + t * x_stride + i % (K / 8) * 8, aligned);
  *(global uint4*)(out + out_offset + i * 4) =
      (uint4)(bf16_pair(v.s0, v.s1), bf16_pair(v.s2, v.s3), bf16_pair(v.s4, v.s5),
              bf16_pair(v.s6, v.s7));
}

// As gemm_round, but in the order of fragments of 16 x 16 (gemm_fragments.cl): rows in 16s (rows beyond T are zeros), each
// as ceil(K / 32) * 2 runs of 16 columns (zeros beyond K), each as 32 times 16 bytes, lane by lane:
// columns 2 c and 2 c + 1 of rows l / 4 and l / 4 + 8, then 8 columns on; c = l % 4.
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_round_fragments(
    const global float* x, long x_offset, long x_stride, int T, int K, global uint* out,
    long out_offset) {
  const long i = (long)get_global_id(0);
  const int lane = (int)(i % 32);
  const int runs = (K + 31) / 32 * 2;
  const long block = i / 32 / runs;
  if (block >= (T + 15) / 16) return;
  uint words[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const long t = block * 16 + lane / 4 + j % 2 * 8;
    const int k = (int)(i / 32 % runs) * 16 + j / 2 * 8 + lane % 4 * 2;
    const global float* const from = x + x_offset + t * x_stride + k;
    words[j] = t < T && k < K ? bf16_pair(from[0], from[1]) : 0;
  }
  *(global uint4*)(out + out_offset + i * 4) = (uint4)(words[0], words[1], words[2], words[3]);
}

// As gemm_round, but in the order of turned_column: rows of whole blocks of 64 columns, zeros
// beyond K. K is even, and a multiple of 256 where blocks have 256 `columns`.
//                                                   global ceil(T ceil(K / 64) 8 / 256) * 256
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_round_turned(
    const global float* x, long x_offset, long x_stride, int T, int K, int columns,
    global uint* out, long out_offset) {
  const long i = (long)get_global_id(0);
  const int eighths = (K + 63) / 64 * 8;
  const long t = i / eighths;
  if (t >= T) return;
  const global float* const from = x + x_offset + t * x_stride;
  uint words[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int k = turned_column((int)(i % eighths) * 8 + 2 * c, columns);
    words[c] = k < K ? bf16_pair(from[k], from[k + 1]) : 0;
  }
  *(global uint4*)(out + out_offset + i * 4) = (uint4)(words[0], words[1], words[2], words[3]);
}

#if NV_COMPUTE >= 80

kernel void gemm_linear(LINEAR_ARGS) {
  LINEAR_GROUP(4);
  if (rows > TILE_ROWS / 2) {
    LINEAR_TILE(WHOLE_TILE);
  } else {
    LINEAR_TILE(HALF_TILE);
  }
}

kernel void gemm_gate_up(EXPERT_ARGS, const global int* pair_row, long pair_row_offset,
                         const global float* pair_weight, long pair_weight_offset,
                         const global uchar* x, long x_offset, global float* act, long act_offset,
                         int D, int F) {
  local uchar tiles[TILE_BYTES] __attribute__((aligned(1024)));
  if ((int)get_group_id(1) >= n_tiles[n_tiles_at]) return;
  const expert_tile_t tile =
      ((const global expert_tile_t*)(tile_list + tiles_offset))[get_group_id(1)];
  const global expert_t* const e = (const global expert_t*)(table + table_offset) + tile.expert;
  const int n0 = (int)get_group_id(0) * 64;
  const global uchar* const slab = e->slab == slab_index ? slab_a : slab_b;
  if ((uint)(e->slab - slab_index) > 1 || n0 >= e->F) return;
  if (tile.n_pairs > TILE_ROWS / 2) {
    WHOLE_TILE(gate_up_tile)
    (tiles, slab, e, tile, pair_row + pair_row_offset, pair_weight + pair_weight_offset,
     x + x_offset * 4, (global ushort*)(act + act_offset), n0, D, F);
  } else {
    HALF_TILE(gate_up_tile)
    (tiles, slab, e, tile, pair_row + pair_row_offset, pair_weight + pair_weight_offset,
     x + x_offset * 4, (global ushort*)(act + act_offset), n0, D, F);
  }
}

kernel void gemm_down(EXPERT_ARGS, const global float* act, long act_offset, global float* out,
                      long out_offset, int D, int F) {
  local uchar tiles[TILE_BYTES] __attribute__((aligned(1024)));
  if ((int)get_group_id(1) >= n_tiles[n_tiles_at]) return;
  const expert_tile_t tile =
      ((const global expert_tile_t*)(tile_list + tiles_offset))[get_group_id(1)];
  const global expert_t* const e = (const global expert_t*)(table + table_offset) + tile.expert;
  const int n0 = (int)get_group_id(0) * 128;
  const global uchar* const slab = e->slab == slab_index ? slab_a : slab_b;
  if ((uint)(e->slab - slab_index) > 1) return;
  const global uchar* const from = (const global uchar*)(act + act_offset);
  const int even = out_offset % 2 == 0;
  if (tile.n_pairs > TILE_ROWS / 2) {
    WHOLE_TILE(down_tile)(tiles, slab, e, tile, from, out + out_offset, even, n0, D, F);
  } else {
    HALF_TILE(down_tile)(tiles, slab, e, tile, from, out + out_offset, even, n0, D, F);
  }
}

#endif  // NV_COMPUTE
