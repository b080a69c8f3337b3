// The tile's products through wgmma, of both operands in local memory: see gemm_wgmma.cl for the
// comments that become instructions. swizzled32 is its 64-byte swizzle.
#if NV_COMPUTE == 90

// c [64 x 128] or [64 x 64] += x w^T of two descriptors.
INLINE void wgmma_m64n128k16(float* c, ulong x, ulong w) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "
      "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "
      "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, add, 1, 1, 0, 0; }"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]),
        "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]),
        "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),
        "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]),
        "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]),
        "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]), "+f"(c[42]),
        "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]),
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]),
        "+f"(c[55]), "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]),
        "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
      : "l"(x), "l"(w)
      : "memory");
}

INLINE void wgmma_m64n64k16(float* c, ulong x, ulong w) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, add, 1, 1, 0, 0; }"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]),
        "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]),
        "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),
        "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]),
        "+f"(c[31])
      : "l"(x), "l"(w)
      : "memory");
}

// Local memory at `address`, rows of 64 bytes in groups of eight that are 512 bytes apart.
INLINE ulong tile_descriptor(uint address) {
  return (ulong)((address & 0x3ffff) >> 4) | 1ul << 16 | 32ul << 32 | 2ul << 62;
}

INLINE void wgmma_fence_loads(void) {
  asm volatile("//PTX fence.proxy.async.shared::cta;" : : : "memory");
}
INLINE void wgmma_begin(void) { asm volatile("//PTX wgmma.fence.sync.aligned;" : : : "memory"); }
INLINE void wgmma_commit(void) {
  asm volatile("//PTX wgmma.commit_group.sync.aligned;" : : : "memory");
}
INLINE void wgmma_wait(void) {
  asm volatile("//PTX wgmma.wait_group.sync.aligned 0;" : : : "memory");
}

#endif  // NV_COMPUTE
