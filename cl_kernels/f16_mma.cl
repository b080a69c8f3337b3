// NVIDIA's instructions that one_row_mma.cl needs, one a function (compute capability 8.0;
// e4m3 8.9).
#if NV_COMPUTE >= 80

// c += a b for a of 16 x 16 and b of 16 x 8 values in f16.
INLINE void mma_f16(float* c, uint a0, uint a1, uint a2, uint a3, uint b0, uint b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// {low, high} as two f16 in a word, to nearest even.
INLINE uint f16_pair(float low, float high) {
  uint pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

INLINE float f32_of_low_f16(uint bits) {
  float value;
  asm("{ .reg .b16 h, unused; mov.b32 {h, unused}, %1; cvt.f32.f16 %0, h; }"
      : "=f"(value)
      : "r"(bits));
  return value;
}

INLINE float f32_of_high_f16(uint bits) {
  float value;
  asm("{ .reg .b16 h, unused; mov.b32 {unused, h}, %1; cvt.f32.f16 %0, h; }"
      : "=f"(value)
      : "r"(bits));
  return value;
}

// Two f16 less two f16.
INLINE uint f16_difference(uint a, uint b) {
  uint difference;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
  return difference;
}

#if NV_COMPUTE >= 89
// The e4m3 values of the bytes of a word as pairs of f16.
INLINE uint2 f16_of_e4m3(uint bytes) {
  uint2 pairs;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.rn.f16x2.e4m3x2 %0, low; "
      "cvt.rn.f16x2.e4m3x2 %1, high; }"
      : "=r"(pairs.x), "=r"(pairs.y)
      : "r"(bytes));
  return pairs;
}
#endif

// Byte i of the result is byte (selector >> 4 i) & 7 of b:a.
INLINE uint pick_bytes(uint a, uint b, uint selector) {
  uint result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
}

// 16 bytes, or 8 for the first or second half of v; nothing where `on` is 0.
#define LOADS_IF(load16, load8, hints)                                                       \
  INLINE void load16(uint4* v, const global uchar* from, int on) {                           \
    asm volatile(                                                                            \
        "{ .reg .pred p; setp.ne.s32 p, %5, 0;\n"                                            \
        "@p ld.global.nc" hints ".v4.u32 {%0, %1, %2, %3}, [%4]; }"                          \
        : "+r"(v->x), "+r"(v->y), "+r"(v->z), "+r"(v->w)                                     \
        : "l"(from), "r"(on));                                                               \
  }                                                                                          \
  INLINE void load8(uint4* v, const int upper, const global uchar* from, int on) {           \
    uint first = upper ? v->z : v->x;                                                        \
    uint second = upper ? v->w : v->y;                                                       \
    asm volatile(                                                                            \
        "{ .reg .pred p; setp.ne.s32 p, %3, 0;\n"                                            \
        "@p ld.global.nc" hints ".v2.u32 {%0, %1}, [%2]; }"                                  \
        : "+r"(first), "+r"(second)                                                          \
        : "l"(from), "r"(on));                                                               \
    if (upper) {                                                                             \
      v->z = first;                                                                          \
      v->w = second;                                                                         \
    } else {                                                                                 \
      v->x = first;                                                                          \
      v->y = second;                                                                         \
    }                                                                                        \
  }
// Of memory that is read once, and of what neighbours in memory need too.
LOADS_IF(load16_once, load8_once, ".L1::no_allocate.L2::128B")
LOADS_IF(load16_if, load8_if, "")

INLINE void load4_if(uint4* v, const global uchar* from, int on) {
  uint word = v->x;
  asm volatile(
      "{ .reg .pred p; setp.ne.s32 p, %2, 0;\n"
      "@p ld.global.nc.u32 %0, [%1]; }"
      : "+r"(word)
      : "l"(from), "r"(on));
  v->x = word;
}

// 16 bytes into local memory, zeros where `bytes` is 0; there after wait_for_copies.
INLINE void copy16_once(local uint4* to, const global float* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;"
               :
               : "r"((uint)(ulong)to), "l"(from), "r"(bytes)
               : "memory");
}
INLINE void wait_for_copies(void) { asm volatile("cp.async.wait_all;" : : : "memory"); }

// a & b, where it stands.
INLINE uint and_bits(uint a, uint b) {
  uint both;
  asm volatile("and.b32 %0, %1, %2;" : "=r"(both) : "r"(a), "r"(b));
  return both;
}

// The largest value of a warp, in each of its work-items.
INLINE uint warp_max(uint value) {
  uint most;
  asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(most) : "r"(value));
  return most;
}

// How many work-items of a warp have the condition.
INLINE int warp_count(int condition) {
  uint votes;
  asm volatile(
      "{ .reg .pred p; setp.ne.s32 p, %1, 0;\n"
      "vote.sync.ballot.b32 %0, p, 0xffffffff; }"
      : "=r"(votes)
      : "r"(condition));
  return (int)popcount(votes);
}

#endif
