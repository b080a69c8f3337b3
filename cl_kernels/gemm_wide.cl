// gemm_linear (gemm.cl) in tiles of 256 x 128 through mma.sync for weights in bf16, where there are
// tiles enough for every multiprocessor: eight warps with 32 rows and all 128 columns each. A
// program of its own, because its work-items need twice the registers that the others may have.
//
// x and the ring of weights are those of gemm_fragments.cl, four steps on their way. What ldmatrix
// gives is taken three quarters of a run of 16 columns later, beyond the end of steps.
#if NV_COMPUTE >= 80

kernel __attribute__((reqd_work_group_size(GEMM_ITEMS, 1, 1))) void gemm_linear_wide(LINEAR_ARGS) {
  local uchar ring[RING * STEP_BYTES] __attribute__((aligned(1024)));
  const int lid = (int)get_local_id(0);
  const int swiglu = mode == MODE_SWIGLU;
  const int columns = swiglu ? 64 : 128;
  const int2 at =
      tile_of((int)get_group_id(0), (T + FRAGMENT_ROWS - 1) / FRAGMENT_ROWS, (N + columns - 1) / columns);
  const int n0 = at.y * columns;
  const int steps = (K + 31) / 32;
  const int warp = lid / 32;
  const global uint4* fragments[2];
  const global uchar* rows[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int block = at.x * (FRAGMENT_ROWS / 16) + warp * 2 + i;
    fragments[i] = (const global uint4*)(x + x_offset * 4) +
                   (long)min(block, (T + 15) / 16 - 1) * steps * 64 + lid % 32;
    const long n = min(n0 + lid / 4 + (swiglu ? 0 : i * 64), N - 1);
    rows[i] = (swiglu && i == 1 ? w2 + codes2 : w + codes) + n * K * 2;
  }
  const uint memory = shared_address(ring);
  const uint mine = memory + swizzled32(lid / 4, lid % 4);
  const uint w_at = memory + w_fragment(lid % 32, 0, 32);
  uint4 a[FRAGMENT_SETS][4];
  uint b[4][4];
  float acc[2][64];
#pragma unroll
  for (int i = 0; i < 128; ++i) acc[i / 64][i % 64] = 0.0f;
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    load_step(mine + s * STEP_BYTES, rows, s, K);
    cp_async_commit();
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) load_set(a[s], fragments, min(s, steps - 1));
  cp_async_wait(3);
  barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
  for (int q = 0; q < 3; ++q) ldmatrix_x4(b[q], w_at + q * 1024);
  uint now = 0;
  uint later = 4 * STEP_BYTES;
  for (int step0 = 0; step0 < steps; step0 += FRAGMENT_SETS) {
#pragma unroll
    for (int j = 0; j < FRAGMENT_SETS; ++j) {
      cp_async_wait(2);
      barrier(CLK_LOCAL_MEM_FENCE);
      load_step(mine + later, rows, step0 + j + 4, K);
      cp_async_commit();
      load_set(a[(j + 2) % FRAGMENT_SETS], fragments, min(step0 + j + 2, steps - 1));
      const uint next = next_in_ring(now);
#pragma unroll
      for (int q = 0; q < 16; ++q) {
        const int p = q + 3;  // the quarter that is loaded
        const uint from = w_at + (p < 16 ? now : next);
        ldmatrix_x4(b[p % 4], (p % 16 < 8 ? from : from ^ 32) + p % 8 * 1024);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            mma_bf16(acc[m] + (q % 8 * 2 + n) * 4, (const uint*)&a[j][2 * m + q / 8],
                     b[q % 4][2 * n], b[q % 4][2 * n + 1]);
          }
        }
      }
      later = now;
      now = next;
    }
  }
  cp_async_wait(0);

  const int even = y_offset % 2 == 0 && y_stride % 2 == 0;
#pragma unroll
  for (int h = 0; h < 4; ++h) {
    const int t = at.x * FRAGMENT_ROWS + warp * 32 + h * 8 + lid % 32 / 4;
    global float* const to = y + y_offset + t * y_stride;
    if (t < T) store_row(acc[h / 2] + h % 2 * 2, to, n0, N, mode, even);
  }
}

#endif  // NV_COMPUTE
