// Work-groups of a launch that count each other, so that the last one can go on with what all have
// written. OpenCL 1.2 promises nothing between work-groups: NVIDIA's fences and a CPU's do.

#define ARRIVALS 256  // as Programs::kArrivals; what work-groups keep for the last one follows

// Whether the other `groups` - 1 have come here before; what they wrote by then is visible.
// `arrived` is 0 before the launch and after it; `last`: an int in local memory.
INLINE int is_last_group(volatile global int* arrived, int groups, local int* last) {
#if NV_COMPUTE < 70
  mem_fence(CLK_GLOBAL_MEM_FENCE);
#endif
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
  if (get_local_id(0) == 0) {
#if NV_COMPUTE >= 70
    // What the barrier has made visible to this work-item, its fences make visible to the others.
    uint before;
    asm volatile(
        "fence.acq_rel.gpu;\n"
        "atom.relaxed.gpu.global.inc.u32 %0, [%1], %2;\n"
        "fence.acq_rel.gpu;"
        : "=r"(before)
        : "l"(arrived), "r"((uint)groups - 1)
        : "memory");
    *last = before == (uint)groups - 1;
#else
    *last = atomic_inc(arrived) == groups - 1;
    if (*last) atomic_xchg(arrived, 0);
    mem_fence(CLK_GLOBAL_MEM_FENCE);
#endif
  }
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
  return *last;
}
