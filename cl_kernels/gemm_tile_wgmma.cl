// The tile's products through wgmma, of both operands in local memory: see gemm_wgmma.cl for the
// comments that become instructions. swizzled32 is its 64-byte swizzle.
#if NV_COMPUTE == 90

// c [64 x 128] or [64 x 64] += x w^T of two descriptors.
INLINE void wgmma_m64n128k16(float* c, ulong x, ulong w) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      WGMMA_NAMES_64
      "}, %64, %65, add, 1, 1, 0, 0; }"
      : WGMMA_SUMS_64(c)
      : "l"(x), "l"(w)
      : "memory");
}

INLINE void wgmma_m64n64k16(float* c, ulong x, ulong w) {
  asm volatile(
      "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      WGMMA_NAMES_32
      "}, %32, %33, add, 1, 1, 0, 0; }"
      : WGMMA_SUMS_32(c)
      : "l"(x), "l"(w)
      : "memory");
}

// Local memory at `address`, rows of 64 bytes in groups of eight that are 512 bytes apart.
INLINE ulong tile_descriptor(uint address) {
  return (ulong)((address & 0x3ffff) >> 4) | 1ul << 16 | 32ul << 32 | 2ul << 62;
}
#endif  // NV_COMPUTE
