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
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
      "}, {%16, %17, %18, %19}, %20, add, 1, 1, 0; }"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(keys)
      : "memory");
}

// c [64 x 128] += a [64 x 16] V for 16 keys and their 128 values.
INLINE void multiply_values(float* c, const uint* a, ulong values) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "
      "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "
      "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1; }"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]),
        "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]),
        "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]),
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]),
        "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]),
        "+f"(c[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(values)
      : "memory");
}

INLINE void open_products(void) { asm volatile("//PTX wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void finish_products(void) {
  asm volatile("//PTX wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("//PTX wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// What cp.async wrote becomes visible to wgmma.
#define STAGE_ARRIVED() asm volatile("//PTX fence.proxy.async.shared::cta;" ::: "memory")

// Descriptors of what lies at `address`: eight keys are 1024 bytes, swizzled by 128. For values the
// next 64 columns are UNIT_BYTES further on.
INLINE ulong keys_at(uint address) {
  return (ulong)(address >> 4) | 1ul << 16 | (ulong)(1024 >> 4) << 32 | 1ul << 62;
}
INLINE ulong values_at(uint address) {
  return (ulong)(address >> 4) | (ulong)(UNIT_BYTES >> 4) << 16 | (ulong)(1024 >> 4) << 32 |
         1ul << 62;
}

// s[n tile][4] = the scores of 32 keys.
INLINE void make_scores(float* s, const uint* a, uint stage) {
  const ulong keys = keys_at(stage);
#pragma unroll
  for (int i = 0; i < KEYS / 2; ++i) s[i] = 0.0f;
  open_products();
#pragma unroll
  for (int k = 0; k < 12; ++k) {
    multiply_keys(s, a + 4 * k, keys + (k / 4 * UNIT_BYTES + k % 4 * 32) / 16);
  }
  finish_products();
}

// o[n tile][4] += p V
INLINE void add_values(float* o, const uint* p, uint stage) {
  const ulong values = values_at(stage + 3 * UNIT_BYTES);
  open_products();
#pragma unroll
  for (int k = 0; k < KEYS / 16; ++k) multiply_values(o, p + 4 * k, values + k * 2048 / 16);
  finish_products();
}
#endif
