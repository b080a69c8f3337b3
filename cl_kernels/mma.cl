// What the matrix units of NVIDIA's compute capability 8.0 and above take and give, one instruction
// a function, and pairs of bf16 for every device.

// To nearest even; NaN stays NaN.
INLINE uint bf16_of(float value) {
  const uint bits = as_uint(value);
  const uint rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return isnan(value) ? bits >> 16 | 0x40u : rounded;
}

// {low, high} as two bf16 in a word.
INLINE uint bf16_pair(float low, float high) {
#if NV_COMPUTE >= 80
  uint pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return bf16_of(low) | bf16_of(high) << 16;
#endif
}

#if NV_COMPUTE >= 80

// The address of local memory as cp.async and ldmatrix take it.
INLINE uint shared_address(const local uchar* p) { return (uint)(ulong)p; }

// 16 bytes into local memory, zeros where `bytes` is 0.
INLINE void cp_async16(uint to, const global uchar* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(from), "r"(bytes)
               : "memory");
}
INLINE void cp_async_commit(void) { asm volatile("cp.async.commit_group;" : : : "memory"); }

#define CP_ASYNC_WAIT(N) asm volatile("cp.async.wait_group " #N ";" : : : "memory")
// All but the last `n` groups have arrived; n is a constant.
INLINE void cp_async_wait(const int n) {
  switch (n) {
    case 0:
      CP_ASYNC_WAIT(0);
      break;
    case 1:
      CP_ASYNC_WAIT(1);
      break;
    case 2:
      CP_ASYNC_WAIT(2);
      break;
    case 3:
      CP_ASYNC_WAIT(3);
      break;
    default:
      CP_ASYNC_WAIT(4);
      break;
  }
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
INLINE void ldmatrix_x4(uint* r, uint address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// The same, each matrix turned.
INLINE void ldmatrix_x4_turned(uint* r, uint address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

INLINE void mma_bf16(float* c, const uint* a, uint b0, uint b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
