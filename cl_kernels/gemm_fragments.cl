// What the forms of 256 x 128 for weights in bf16 share (gemm_wgmma.cl, gemm_wide.cl): 256
// work-items, fragments of x from device memory to registers, in the order that
// gemm_round_fragments gave them, so that local memory holds weights alone: a ring of five steps of
// 32 columns, chunks swapped as swizzled32 says. With SwiGLU rows 0 to 63 of a step are gate's, the
// others up's.
#if NV_COMPUTE >= 80

#define FRAGMENT_ROWS 256
#define RING 5
#define STEP_BYTES 8192
#define FRAGMENT_SETS 3

// Rows lid / 4 and lid / 4 + 64 of the weights' tile, a quarter of a step each.
INLINE void load_step(uint at, const global uchar* const* rows, int step, int K) {
  const int k = step * 32 + (int)(get_local_id(0) % 4) * 8;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    cp_async16(at + i * 4096, rows[i] + (long)k * 2, k < K ? 16 : 0);
  }
}

// Two runs of 16 columns of two times 16 rows of this item's warp.
INLINE void load_set(uint4* set, const global uint4* const* fragments, int step) {
#pragma unroll
  for (int i = 0; i < 4; ++i) set[i] = fragments[i / 2][step * 64 + i % 2 * 32];
}

INLINE uint next_in_ring(uint at) { return at == (RING - 1) * STEP_BYTES ? 0 : at + STEP_BYTES; }

// This item's sums of one row, two in every four: c[i * 4] is those of columns n0 + i * 8 + lane % 4
// * 2 and the next one.
INLINE void store_row(const float* c, global float* to, int n0, int N, int mode, int even) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float* const v = c + i * 4;
    const int column = n0 + i * 8 + (int)get_local_id(0) % 4 * 2;
    if (mode == MODE_STORE) {
      store2(to, column, N, v[0], v[1], even);
    } else if (mode == MODE_ADD) {
      add2(to, column, N, v[0], v[1]);
    } else if (mode == MODE_BF16) {
      store2_bf16(to, column, N, v[0], v[1]);
    } else if (i < 8) {
      store2(to, column, N, quick_silu(v[0]) * v[32], quick_silu(v[1]) * v[33], even);
    }
  }
}

#endif  // NV_COMPUTE
