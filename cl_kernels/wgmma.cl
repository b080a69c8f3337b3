// What the programs with wgmma share. The compiler does not know it: its instructions stand in
// comments that begin with //PTX and take their place in the program's binary (program_patch.h).
#if NV_COMPUTE == 90
// The 16, 32 or 64 sums of a work-item: their names in the instruction, and their operands.
#define WGMMA_NAMES_16 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_SUMS_16(c) \
  "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3]), "+f"((c)[4]), "+f"((c)[5]), \
  "+f"((c)[6]), "+f"((c)[7]), "+f"((c)[8]), "+f"((c)[9]), "+f"((c)[10]), "+f"((c)[11]), \
  "+f"((c)[12]), "+f"((c)[13]), "+f"((c)[14]), "+f"((c)[15])
#define WGMMA_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_SUMS_32(c) \
  "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3]), "+f"((c)[4]), "+f"((c)[5]), \
  "+f"((c)[6]), "+f"((c)[7]), "+f"((c)[8]), "+f"((c)[9]), "+f"((c)[10]), "+f"((c)[11]), \
  "+f"((c)[12]), "+f"((c)[13]), "+f"((c)[14]), "+f"((c)[15]), "+f"((c)[16]), \
  "+f"((c)[17]), "+f"((c)[18]), "+f"((c)[19]), "+f"((c)[20]), "+f"((c)[21]), \
  "+f"((c)[22]), "+f"((c)[23]), "+f"((c)[24]), "+f"((c)[25]), "+f"((c)[26]), \
  "+f"((c)[27]), "+f"((c)[28]), "+f"((c)[29]), "+f"((c)[30]), "+f"((c)[31])
#define WGMMA_NAMES_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_SUMS_64(c) \
  "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3]), "+f"((c)[4]), "+f"((c)[5]), \
  "+f"((c)[6]), "+f"((c)[7]), "+f"((c)[8]), "+f"((c)[9]), "+f"((c)[10]), "+f"((c)[11]), \
  "+f"((c)[12]), "+f"((c)[13]), "+f"((c)[14]), "+f"((c)[15]), "+f"((c)[16]), \
  "+f"((c)[17]), "+f"((c)[18]), "+f"((c)[19]), "+f"((c)[20]), "+f"((c)[21]), \
  "+f"((c)[22]), "+f"((c)[23]), "+f"((c)[24]), "+f"((c)[25]), "+f"((c)[26]), \
  "+f"((c)[27]), "+f"((c)[28]), "+f"((c)[29]), "+f"((c)[30]), "+f"((c)[31]), \
  "+f"((c)[32]), "+f"((c)[33]), "+f"((c)[34]), "+f"((c)[35]), "+f"((c)[36]), \
  "+f"((c)[37]), "+f"((c)[38]), "+f"((c)[39]), "+f"((c)[40]), "+f"((c)[41]), \
  "+f"((c)[42]), "+f"((c)[43]), "+f"((c)[44]), "+f"((c)[45]), "+f"((c)[46]), \
  "+f"((c)[47]), "+f"((c)[48]), "+f"((c)[49]), "+f"((c)[50]), "+f"((c)[51]), \
  "+f"((c)[52]), "+f"((c)[53]), "+f"((c)[54]), "+f"((c)[55]), "+f"((c)[56]), \
  "+f"((c)[57]), "+f"((c)[58]), "+f"((c)[59]), "+f"((c)[60]), "+f"((c)[61]), \
  "+f"((c)[62]), "+f"((c)[63])

// What cp.async wrote becomes visible to wgmma.
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

// Lane 0's number. Descriptors made of it stay in uniform registers: else every wgmma waits until
// its own has been moved there.
INLINE int uniform_of(int v) {
  int same;
  asm volatile("shfl.sync.idx.b32 %0, %1, 0, 0x1f, 0xffffffff;" : "=r"(same) : "r"(v));
  return same;
}

// Descriptors of keys of attention at `address`: eight are 1024 bytes, swizzled by 128. For values
// the next 64 columns are unit_bytes further on.
INLINE ulong keys_at(uint address) {
  return (ulong)(address >> 4) | 1ul << 16 | (ulong)(1024 >> 4) << 32 | 1ul << 62;
}
INLINE ulong values_at(uint address, const int unit_bytes) {
  return (ulong)(address >> 4) | (ulong)(unit_bytes >> 4) << 16 | (ulong)(1024 >> 4) << 32 |
         1ul << 62;
}
#endif  // NV_COMPUTE
