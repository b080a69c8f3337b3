// gemm_linear (gemm.cl) through wgmma, for compute capability 9.0 and weights in bf16: tiles of
// 256 x 128, two groups of four warps with twice 64 rows each. The compiler knows no wgmma: what it
// needs stands in comments that begin with //PTX and become instructions in the program's binary,
// which is text (program_patch.h).
//
// x and the ring of weights are those of gemm_fragments.cl: three steps are on their way while one
// is multiplied and the one before may still be.
#if NV_COMPUTE == 90

// c [64 x 128] += a [64 x 16] w^T, w the 128 rows that the descriptor tells.
INLINE void wgmma_m64n128k16(float* c, uint4 a, ulong w) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      WGMMA_NAMES_64
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 0; }"
      : WGMMA_SUMS_64(c)
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(w)
      : "memory");
}

// Local memory at `address`, rows of 64 bytes in groups of eight that are 512 bytes apart.
INLINE ulong descriptor(uint address) {
  return (ulong)((address & 0x3ffff) >> 4) | 1ul << 16 | 32ul << 32 | 2ul << 62;
}

kernel __attribute__((reqd_work_group_size(GEMM_ITEMS, 1, 1))) void gemm_linear_wgmma(LINEAR_ARGS) {
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
    const int block = at.x * (FRAGMENT_ROWS / 16) + warp / 4 * 8 + i * 4 + warp % 4;
    fragments[i] = (const global uint4*)(x + x_offset * 4) +
                   (long)min(block, (T + 15) / 16 - 1) * steps * 64 + lid % 32;
    const long n = min(n0 + lid / 4 + (swiglu ? 0 : i * 64), N - 1);
    rows[i] = (swiglu && i == 1 ? w2 + codes2 : w + codes) + n * K * 2;
  }
  const uint memory = shared_address(ring);
  const uint mine = memory + swizzled32(lid / 4, lid % 4);
  uint4 a[FRAGMENT_SETS][4];
  float acc[2][64];
#pragma unroll
  for (int i = 0; i < 128; ++i) acc[i / 64][i % 64] = 0.0f;
#pragma unroll
  for (int s = 0; s < 3; ++s) {
    load_step(mine + s * STEP_BYTES, rows, s, K);
    cp_async_commit();
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) load_set(a[s], fragments, min(s, steps - 1));
  uint now = 0;                 // where this step lies
  uint later = 3 * STEP_BYTES;  // and the third from it
  // Whole turns of the sets: steps beyond K are zeros.
  for (int step0 = 0; step0 < steps; step0 += FRAGMENT_SETS) {
#pragma unroll
    for (int j = 0; j < FRAGMENT_SETS; ++j) {
      cp_async_wait(2);
      asm volatile("//PTX fence.proxy.async.shared::cta;" : : : "memory");
      barrier(CLK_LOCAL_MEM_FENCE);
      asm volatile("//PTX wgmma.fence.sync.aligned;" : : : "memory");
      const ulong w_at = descriptor(memory + now);
      wgmma_m64n128k16(acc[0], a[j][0], w_at);
      wgmma_m64n128k16(acc[0], a[j][1], w_at + 2);
      wgmma_m64n128k16(acc[1], a[j][2], w_at);
      wgmma_m64n128k16(acc[1], a[j][3], w_at + 2);
      asm volatile("//PTX wgmma.commit_group.sync.aligned;" : : : "memory");
      asm volatile("//PTX wgmma.wait_group.sync.aligned 1;" : : : "memory");
      load_step(mine + later, rows, step0 + j + 3, K);
      cp_async_commit();
      // The set of the step before is free.
      load_set(a[(j + 2) % FRAGMENT_SETS], fragments, min(step0 + j + 2, steps - 1));
      now = next_in_ring(now);
      later = next_in_ring(later);
    }
  }
  asm volatile("//PTX wgmma.wait_group.sync.aligned 0;" : : : "memory");
  cp_async_wait(0);

  const int even = y_offset % 2 == 0 && y_stride % 2 == 0;
#pragma unroll
  for (int h = 0; h < 4; ++h) {
    const int t =
        at.x * FRAGMENT_ROWS + warp / 4 * 128 + h / 2 * 64 + warp % 4 * 16 + h % 2 * 8 + lid % 32 / 4;
    global float* const to = y + y_offset + t * y_stride;
    if (t < T) store_row(acc[h / 2] + h % 2 * 2, to, n0, N, mode, even);
  }
}

#endif  // NV_COMPUTE
