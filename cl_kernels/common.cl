// Shared by every program: compile-time parameters and small arithmetic.
//
// Parameters, each -D with a default that is legal everywhere:
//   WTYPE      format of the weights, DType's number (weights.cl)
//   KVTYPE     format of the KV cache: 0 f32, 1 bf16, 2 f16
//   TEAM       work-items that share one dot product. 1 suits a CPU, where a work-item sums in
//              vectors of 8 and needs no barrier; 32 suits a GPU, where loads become coalesced
//   TEAMS      teams in a work-group, so that a work-group has TEAM * TEAMS work-items
//   WROWS      weight rows of a team, which reuse the x that it loads
//   MAX_ROWS   rows of x that a team takes at once: 8 suits a GPU; 4 x WROWS vector sums are what
//   the
//              registers of a CPU hold
//   GROUP      work-items of a work-group in kernels that reduce over a row
//   DENORMALS  1 where f32 arithmetic is exact on subnormal values and not slow on them
#ifndef WTYPE
#define WTYPE 1
#endif
#ifndef KVTYPE
#define KVTYPE 0
#endif
#ifndef TEAM
#define TEAM 1
#endif
#ifndef TEAMS
#define TEAMS 1
#endif
#ifndef WROWS
#define WROWS 4
#endif
#ifndef MAX_ROWS
#define MAX_ROWS 4
#endif
#ifndef GROUP
#define GROUP 1
#endif
#ifndef DENORMALS
#define DENORMALS 0
#endif

#define KVTYPE_F32 0
#define KVTYPE_BF16 1
#define KVTYPE_F16 2
#define KVTYPE_F8 3
#define WTYPE_F32 0
#define WTYPE_BF16 1
#define WTYPE_F16 2
#define WTYPE_F8 3
#define WTYPE_Q8_0 4
#define WTYPE_Q4_0 5
#define WTYPE_Q5_0 7
#define WTYPE_MXFP4 10
#define WTYPE_Q4_K 13
#define WTYPE_Q5_K 14
#define WTYPE_Q6_K 15
#define INLINE static inline __attribute__((always_inline))

// Sums are spelled with fma: the compiler's own contraction may differ from kernel to kernel, and a
// row must come out the same from each.
INLINE float dot8(float8 a, float8 b, float sum) {
  sum = fma(a.s0, b.s0, sum);
  sum = fma(a.s1, b.s1, sum);
  sum = fma(a.s2, b.s2, sum);
  sum = fma(a.s3, b.s3, sum);
  sum = fma(a.s4, b.s4, sum);
  sum = fma(a.s5, b.s5, sum);
  sum = fma(a.s6, b.s6, sum);
  return fma(a.s7, b.s7, sum);
}

INLINE float sum8(float8 a) {
  const float4 b = a.lo + a.hi;
  const float2 c = b.lo + b.hi;
  return c.x + c.y;
}

INLINE float8 f32_of_bf16(uint8 bits) { return as_float8(bits << 16); }

// A format with a smaller exponent becomes f32 by a shift of its bits and a change of bias. Its
// subnormals have the smallest exponent and no leading one: either a multiplication by a power of
// two normalises them, or they are read with a leading one that is subtracted again.
INLINE float8 f32_of_f16(uint8 bits) {
  const uint8 magnitude = (bits & 0x7fffu) << 13;
  const float8 normal = as_float8(magnitude + 0x38000000u);
  const float8 small = as_float8(magnitude + 0x38800000u) - 0x1p-14f;
  const float8 special = as_float8(magnitude + 0x70000000u);  // infinity and NaN
  float8 value = select(normal, small, magnitude < (uint8)(0x00800000u));
  value = select(value, special, magnitude >= (uint8)(0x0f800000u));
  return as_float8(as_uint8(value) | (bits & 0x8000u) << 16);
}

// Rows of x may start anywhere; 16-byte loads are four times as quick where the start allows them.
INLINE float8 load8(const global float* p, int aligned) {
  if (!aligned) return vload8(0, p);
  const global float4* q = (const global float4*)p;
  return (float8)(q[0], q[1]);
}

INLINE float4 load4(const global float* p, int aligned) {
  return aligned ? *(const global float4*)p : vload4(0, p);
}
INLINE void store4(float4 v, global float* p, int aligned) {
  if (aligned) {
    *(global float4*)p = v;
  } else {
    vstore4(v, 0, p);
  }
}

#if NV_COMPUTE >= 70
// The value of the work-item whose place in the warp differs by the bits of `mask`.
INLINE float from_lane(float value, int mask) {
  float other;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;"
               : "=f"(other)
               : "f"(value), "r"(mask));
  return other;
}
#endif

INLINE float silu(float v) { return v / (1.0f + exp(-v)); }
