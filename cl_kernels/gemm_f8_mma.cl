// y = x w^T in FP8 through mma.sync, for compute capability 8.9 and above where there is no wgmma.
// (8.9 has the instruction; on 9.0 ptxas makes it of two in f16 and five to unpack.)
//
// Eight warps have 32 rows of x each, as fragments from device memory, and all of the tile's 128
// rows of w. The products of 64 columns start from zero for every 16 rows of w, so that a work-item
// has 16 sums under way beside the f32 sums that take them with both scales.
#if NV_COMPUTE >= 89
#define F8_ROWS 256

INLINE void mma_e4m3(float* c, const uint4* a, uint b0, uint b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a->x), "r"(a->y), "r"(a->z), "r"(a->w), "r"(b0), "r"(b1));
}

// Half a step, 64 columns, of 16 rows of x.
INLINE void f8_load_half(uint4* a, const global float* x, uint piece, int half_of) {
  const global uint4* const codes =
      (const global uint4*)x + (ulong)(piece * 128 + (uint)half_of * 64 + (uint)get_local_id(0) % 32);
  a[0] = codes[0];
  a[1] = codes[32];
}

INLINE void f8_load_scales(float* by_row, const global float* scales, uint piece) {
  const uint row = piece * 16 + (uint)get_local_id(0) % 32 / 4;
  by_row[0] = scales[row];
  by_row[1] = scales[row + 8];
}

// sums of 32 x 128 of this warp += a w^T by 64 columns, 16 rows of w after the other; `at`: as
// ldmatrix takes the first ones.
INLINE void f8_half_step(float (*sums)[2][32], uint4 (*a)[2], float (*by_row)[2], uint at,
                         float gate, float up) {
#pragma unroll
  for (int q = 0; q < 8; ++q) {
    float c[2][8];
#pragma unroll
    for (int i = 0; i < 16; ++i) c[i / 8][i % 8] = 0.0f;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      uint b[4];
      ldmatrix_x4(b, (at ^ (k * 32)) + q * 2048);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma_e4m3(c[m], &a[m][k], b[0], b[1]);
        mma_e4m3(c[m] + 4, &a[m][k], b[2], b[3]);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float low = by_row[m][0] * (q < 4 ? gate : up);
      const float high = by_row[m][1] * (q < 4 ? gate : up);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float* const sum = &sums[m][q / 4][q % 4 * 8 + i];
        *sum = fma(c[m][i], i % 4 < 2 ? low : high, *sum);
      }
    }
  }
}

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_f8_mma(LINEAR_ARGS) {
  local uchar ring[2 * F8_STEP_BYTES] __attribute__((aligned(1024)));
  F8_TILE(F8_ROWS, 8);
  const uint memory = shared_address(ring);
  const uint mine = memory + f8_swizzled((uint)lid / 8, (uint)lid % 8);
  // Matrices of 8 rows and 16 columns: columns first, then rows.
  const uint w_at = memory + f8_swizzled((uint)(lane / 16 * 8 + lane % 8), (uint)(lane / 8 % 2));
  uint pieces[2];
  for (int m = 0; m < 2; ++m) pieces[m] = f8_pieces(T, steps, at.x * 16 + warp * 2 + m);
  uint4 a[2][2][2];
  float by_row[2][2];
  float sums[2][2][32];
#pragma unroll
  for (int i = 0; i < 128; ++i) sums[i / 64][i / 32 % 2][i % 32] = 0.0f;
  f8_load_weights(mine, &weights, 0, K);
#pragma unroll
  for (int m = 0; m < 2; ++m) f8_load_half(a[0][m], x_at, pieces[m], 0);
  for (int step = 0; step < steps; ++step) {
    const uint from = (uint)(step % 2) * F8_STEP_BYTES;
    const float gate = weights.scales[0][step];
    const float up = weights.scales[1][step];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      f8_load_scales(by_row[m], x_scales, pieces[m] + step);
      f8_load_half(a[1][m], x_at, pieces[m] + step, 1);
    }
    cp_async_wait(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    f8_load_weights(mine + F8_STEP_BYTES - from, &weights, step + 1, K);
    f8_half_step(sums, a[0], by_row, w_at + from, gate, up);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      f8_load_half(a[0][m], x_at, pieces[m] + min(step + 1, steps - 1), 0);
    }
    f8_half_step(sums, a[1], by_row, (w_at ^ 64) + from, gate, up);
  }
  cp_async_wait(0);

#pragma unroll
  for (int m = 0; m < 2; ++m) {
    f8_store_half(sums[m], y + y_offset, y_stride, at.x * F8_ROWS + warp * 32 + m * 16 + lane / 4,
                  n0, T, N, mode, y_offset % 2 == 0 && y_stride % 2 == 0);
  }
}
#endif  // NV_COMPUTE
