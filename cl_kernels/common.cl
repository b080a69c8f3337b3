// Shared by every program: compile-time parameters and the decoding of weights.
//
// Parameters, each -D with a default that is legal everywhere:
//   WTYPE      format of the weights: 0 f32, 1 bf16, 2 f16, 3 f8_e4m3 with an f32 scale per 128x128
//   KVTYPE     format of the KV cache: 0 f32, 1 bf16, 2 f16
//   TEAM       work-items that share one dot product. 1 suits a CPU, where a work-item sums in
//              vectors of 8 and needs no barrier; 32 suits a GPU, where loads become coalesced
//   TEAMS      teams in a work-group, so that a work-group has TEAM * TEAMS work-items
//   WROWS      weight rows of a team, which reuse the x that it loads
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
#ifndef GROUP
#define GROUP 1
#endif
#ifndef DENORMALS
#define DENORMALS 0
#endif

#define KVTYPE_F32 0
#define KVTYPE_BF16 1
#define KVTYPE_F16 2
#define WTYPE_F32 0
#define WTYPE_BF16 1
#define WTYPE_F16 2
#define WTYPE_F8 3
#define INLINE static inline __attribute__((always_inline))

#if WTYPE == WTYPE_F32
#define WBYTES 4
#elif WTYPE == WTYPE_F8
#define WBYTES 1
#else
#define WBYTES 2
#endif

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

// NaN (0x7f, 0xff) does not occur: loading refuses it.
INLINE float8 f32_of_f8(uint8 bits) {
  const uint8 magnitude = (bits & 0x7fu) << 20;
  const uint8 sign = (bits & 0x80u) << 24;
#if DENORMALS
  return as_float8(magnitude | sign) * 0x1p120f;
#else
  const float8 normal = as_float8(magnitude + 0x3c000000u);
  const float8 small = as_float8(magnitude + 0x3c800000u) - 0x1p-6f;
  const float8 value = select(normal, small, magnitude < (uint8)(0x00800000u));
  return as_float8(as_uint8(value) | sign);
#endif
}

// Eight weights from their bytes. `p` must be aligned to 8 * WBYTES, but to 16 for f32.
INLINE float8 weight8(const global uchar* p) {
#if WTYPE == WTYPE_F32
  const global float4* q = (const global float4*)p;
  return (float8)(q[0], q[1]);
#elif WTYPE == WTYPE_BF16
  return f32_of_bf16(convert_uint8(as_ushort8(*(const global uint4*)p)));
#elif WTYPE == WTYPE_F16
  return f32_of_f16(convert_uint8(as_ushort8(*(const global uint4*)p)));
#else
  return f32_of_f8(convert_uint8(as_uchar8(*(const global uint2*)p)));
#endif
}

// One weight, wherever it lies.
INLINE float weight1(const global uchar* p) {
#if WTYPE == WTYPE_F32
  return *(const global float*)p;
#elif WTYPE == WTYPE_BF16
  return as_float((uint)*(const global ushort*)p << 16);
#elif WTYPE == WTYPE_F16
  return f32_of_f16((uint8)(*(const global ushort*)p)).s0;
#else
  return f32_of_f8((uint8)(*p)).s0;
#endif
}

// A matrix of weights [rows, K] in a buffer, as the launchers describe it.
typedef struct {
  const global uchar* data;
  const global float* scales;  // f8 only: [ceil(rows / 128), ceil(K / 128)]
  long rows;
  long K;
} matrix_t;

INLINE matrix_t matrix_at(const global uchar* buffer, ulong offset, ulong scale_offset, long rows,
                          long K) {
  matrix_t m;
  m.data = buffer + offset;
  m.scales = (const global float*)(buffer + scale_offset);
  m.rows = rows;
  m.K = K;
  return m;
}

// The factor of w[n, k]; 1 for formats without scales.
INLINE float scale_at(matrix_t m, long n, long k) {
#if WTYPE == WTYPE_F8
  return m.scales[(n / 128) * ((m.K + 127) / 128) + k / 128];
#else
  return 1.0f;
#endif
}

// Rows of x may start anywhere; 16-byte loads are four times as quick where the start allows them.
INLINE float8 load8(const global float* p, int aligned) {
  if (!aligned) return vload8(0, p);
  const global float4* q = (const global float4*)p;
  return (float8)(q[0], q[1]);
}

INLINE float silu(float v) { return v / (1.0f + exp(-v)); }
