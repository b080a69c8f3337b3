// The products of mla_expanded_mma.cl through wgmma, for compute capability 9.0; the rest is the
// same text. What the compiler does not know stands in comments that begin with //PTX and become
// instructions in the program's binary (program_patch.h). The four warps of a work-group
// multiply together.
//   mla_expanded_wgmma   global and local as mla_expanded_mma
#if NV_COMPUTE == 90
#define EXPANDED_WGMMA
#define KEYS 32
#define UNIT_BYTES (KEYS * 128)
#define SKIPPERS 128
#define ALIGNMENT 1024

// c [64 x 32] += a [64 x 16] K^T over 16 values of 32 keys.
INLINE void multiply_keys(float* c, const uint* a, ulong keys) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      WGMMA_NAMES_16
      "}, {%16, %17, %18, %19}, %20, add, 1, 1, 0; }"
      : WGMMA_SUMS_16(c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(keys)
      : "memory");
}

// c [64 x 128] += a [64 x 16] V for 16 keys and their 128 values.
INLINE void multiply_values(float* c, const uint* a, ulong values) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      WGMMA_NAMES_64
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1; }"
      : WGMMA_SUMS_64(c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(values)
      : "memory");
}

#define STAGE_ARRIVED() wgmma_fence_loads()

// s[n tile][4] = the scores of 32 keys.
INLINE void make_scores(float* s, const uint* a, uint stage) {
  const ulong keys = keys_at(stage);
#pragma unroll
  for (int i = 0; i < KEYS / 2; ++i) s[i] = 0.0f;
  wgmma_begin();
#pragma unroll
  for (int k = 0; k < 12; ++k) {
    multiply_keys(s, a + 4 * k, keys + (k / 4 * UNIT_BYTES + k % 4 * 32) / 16);
  }
  wgmma_commit();
  wgmma_wait();
}

// o[n tile][4] += p V
INLINE void add_values(float* o, const uint* p, uint stage) {
  const ulong values = values_at(stage + 3 * UNIT_BYTES, UNIT_BYTES);
  wgmma_begin();
#pragma unroll
  for (int k = 0; k < KEYS / 16; ++k) multiply_values(o, p + 4 * k, values + k * 2048 / 16);
  wgmma_commit();
  wgmma_wait();
}
#endif
