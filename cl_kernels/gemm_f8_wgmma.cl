// y = x w^T in FP8 through wgmma, for compute capability 9.0; its instructions stand in comments that
// begin with //PTX and become instructions in the program's binary (program_patch.h).
//
// Two groups of four warps have 64 (narrow) or twice 64 rows of x each, as fragments that go from
// device memory to registers, and halves of 64 rows of w. So they have two accumulators of 64 x 64:
// while one's 128 columns go into the f32 sums, the other's are multiplied. The compiler lets each
// wgmma wait for the one before where an accumulator is under way from one turn of a loop to the
// next, so none is: there the other group of warps has the matrix units for itself.
#if NV_COMPUTE == 90
#define F8_ROWS 256

// c [64 x 64] = a [64 x 128] w^T, w the 64 rows that the descriptor tells: four products of 32
// columns, the first of which forgets what c was.
INLINE void wgmma_f8(float* c, const uint4* a, ulong w) {
  asm volatile(
      "//PTX { .reg .pred no, yes; .reg .b64 w1, w2, w3; setp.ne.u32 no, 1, 1; "
      "setp.eq.u32 yes, 1, 1; add.s64 w1, %48, 2; add.s64 w2, %48, 4; add.s64 w3, %48, 6; "
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" WGMMA_NAMES_32
      "}, {%32, %33, %34, %35}, %48, no, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" WGMMA_NAMES_32
      "}, {%36, %37, %38, %39}, w1, yes, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" WGMMA_NAMES_32
      "}, {%40, %41, %42, %43}, w2, yes, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" WGMMA_NAMES_32
      "}, {%44, %45, %46, %47}, w3, yes, 1, 1; }"
      : WGMMA_SUMS_32(c)
      : "r"(a[0].x), "r"(a[0].y), "r"(a[0].z), "r"(a[0].w), "r"(a[1].x), "r"(a[1].y),
        "r"(a[1].z), "r"(a[1].w), "r"(a[2].x), "r"(a[2].y), "r"(a[2].z), "r"(a[2].w),
        "r"(a[3].x), "r"(a[3].y), "r"(a[3].z), "r"(a[3].w), "l"(w)
      : "memory");
}

// One product may still run; what the one before left in c may be read.
INLINE void wgmma_wait_but_one(float* c) {
  asm volatile("//PTX wgmma.wait_group.sync.aligned 1;" : : : "memory");
  asm volatile("" : WGMMA_SUMS_32(c) : : "memory");
}

INLINE void promote(float* sums, const float* c, float low, float high) {
#pragma unroll
  for (int i = 0; i < 32; ++i) sums[i] = fma(c[i], i % 4 < 2 ? low : high, sums[i]);
}

// sums [64 x 128] = x w^T, four blocks of 16 rows of x, of which this warp loads one.
INLINE void f8_half_tile(float (*sums)[32], uint memory, uint mine, const f8_weights_t* weights,
                         const f8_rows_t* x, const int gathered, int steps, int K) {
  uint4 a[2][4];
  float by_row[2][2];
  float c[2][32];
#pragma unroll
  for (int i = 0; i < 64; ++i) c[i / 32][i % 32] = sums[i / 32][i % 32] = 0.0f;
  f8_load_weights(mine, weights, 0, K);
  f8_load_rows(a[0], by_row[0], x, 0, gathered);
  // Whole turns of the two sets: a step beyond K is of zeros.
  for (int step0 = 0; step0 < steps; step0 += 2) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int step = min(step0 + j, steps - 1);
      const ulong now = keys_at(memory + j * F8_STEP_BYTES);
      const float gate = weights->scales[0][step];
      const float up = weights->scales[1][step];
      cp_async_wait(0);
      wgmma_fence_loads();
      barrier(CLK_LOCAL_MEM_FENCE);
      wgmma_begin();
      wgmma_f8(c[0], a[j], now);
      wgmma_commit();
      wgmma_f8(c[1], a[j], now + 512);
      wgmma_commit();
      f8_load_weights(mine + (1 - j) * F8_STEP_BYTES, weights, step0 + j + 1, K);
      f8_load_rows(a[1 - j], by_row[1 - j], x, min(step0 + j + 1, steps - 1), gathered);
      wgmma_wait_but_one(c[0]);
      promote(sums[0], c[0], by_row[j][0] * gate, by_row[j][1] * gate);
      wgmma_wait();
      asm volatile("" : WGMMA_SUMS_32(c[1]) : : "memory");
      promote(sums[1], c[1], by_row[j][0] * up, by_row[j][1] * up);
    }
  }
  cp_async_wait(0);
}

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_f8_wgmma_narrow(LINEAR_ARGS) {
  local uchar ring[2 * F8_STEP_BYTES] __attribute__((aligned(1024)));
  F8_TILE(128, 8);
  const uint memory = shared_address(ring);
  const uint mine = memory + f8_swizzled((uint)lid / 8, (uint)lid % 8);
  const uint piece = f8_pieces(T, steps, at.x * 8 + warp);
  f8_rows_t rows;
  rows.codes[0] = (const global uint4*)x_at + (ulong)(piece * 128 + (uint)lane);
  rows.scales[0] = x_scales + piece * 16 + lane / 4;
  float sums[2][32];
  f8_half_tile(sums, memory, mine, &weights, &rows, 0, steps, K);
  f8_store_half(sums, y + y_offset, y_stride, at.x * 128 + warp * 16 + lane / 4, n0, T, N, mode,
                y_offset % 2 == 0 && y_stride % 2 == 0);
}

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void gemm_f8_wgmma(LINEAR_ARGS) {
  local uchar ring[2 * F8_STEP_BYTES] __attribute__((aligned(1024)));
  F8_TILE(F8_ROWS, 8);
  const uint memory = shared_address(ring);
  const uint mine = memory + f8_swizzled((uint)lid / 8, (uint)lid % 8);
  uint pieces[2];
  for (int m = 0; m < 2; ++m) {
    pieces[m] = f8_pieces(T, steps, at.x * 16 + warp / 4 * 8 + m * 4 + warp % 4);
  }
  uint4 a[2][4];
  float by_row[2][2];
  float by_half[2];
  float sums[2][2][32];
  float c[2][32];
#pragma unroll
  for (int i = 0; i < 128; ++i) sums[i / 64][i / 32 % 2][i % 32] = 0.0f;
#pragma unroll
  for (int i = 0; i < 64; ++i) c[i / 32][i % 32] = 0.0f;
  f8_load_weights(mine, &weights, 0, K);
  f8_load_x(a[0], by_row[0], x_at, x_scales, pieces[0]);
  f8_load_x(a[1], by_row[1], x_at, x_scales, pieces[1]);
  by_half[0] = weights.scales[0][0];
  by_half[1] = weights.scales[1][0];
  for (int step = 0; step < steps; ++step) {
    const int next = min(step + 1, steps - 1);
    const ulong now = keys_at(memory + step % 2 * F8_STEP_BYTES);
    cp_async_wait(0);
    wgmma_fence_loads();
    barrier(CLK_LOCAL_MEM_FENCE);
    wgmma_begin();
    wgmma_f8(c[0], a[0], now);
    wgmma_commit();
    wgmma_f8(c[1], a[0], now + 512);
    wgmma_commit();
    f8_load_weights(mine + (step + 1) % 2 * F8_STEP_BYTES, &weights, step + 1, K);
    wgmma_wait_but_one(c[0]);
    promote(sums[0][0], c[0], by_row[0][0] * by_half[0], by_row[0][1] * by_half[0]);

    wgmma_begin();
    wgmma_f8(c[0], a[1], now);
    wgmma_commit();
    wgmma_wait_but_one(c[1]);
    promote(sums[0][1], c[1], by_row[0][0] * by_half[1], by_row[0][1] * by_half[1]);
    f8_load_x(a[0], by_row[0], x_at, x_scales, pieces[0] + next);

    wgmma_begin();
    wgmma_f8(c[1], a[1], now + 512);
    wgmma_commit();
    wgmma_wait_but_one(c[0]);
    promote(sums[1][0], c[0], by_row[1][0] * by_half[0], by_row[1][1] * by_half[0]);
    by_half[0] = weights.scales[0][next];
    wgmma_wait();
    asm volatile("" : WGMMA_SUMS_32(c[1]) : : "memory");
    promote(sums[1][1], c[1], by_row[1][0] * by_half[1], by_row[1][1] * by_half[1]);
    by_half[1] = weights.scales[1][next];
    f8_load_x(a[1], by_row[1], x_at, x_scales, pieces[1] + next);
  }
  cp_async_wait(0);

#pragma unroll
  for (int m = 0; m < 2; ++m) {
    f8_store_half(sums[m], y + y_offset, y_stride,
                  at.x * F8_ROWS + warp / 4 * 128 + m * 64 + warp % 4 * 16 + lane / 4, n0, T, N,
                  mode, y_offset % 2 == 0 && y_stride % 2 == 0);
  }
}
#endif  // NV_COMPUTE
