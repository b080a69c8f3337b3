// Runs of 16 weights of one row, on their way to local memory as bf16: fetch16 loads a run as it
// lies in device memory (memory/split_layout.h), decode16 makes eight words of two bf16 each of it.
// The two are apart so that the loads of a later run are under way while an earlier one is decoded.
// FP8 stays without its scale, which belongs to 128 x 128 weights and multiplies partial sums; but
// for wgmma, whose sums are better left alone between products, it is multiplied in (FOLD_SCALES).
//
// Codes become f32 without a conversion: prmt.b32 puts a byte q into the mantissa of 2^7 (or 2^15),
// and one fma takes that power of two away again: a (128 + q) + (b - 128 a) = a q + b.

#if WTYPE == WTYPE_Q4_K || WTYPE == WTYPE_Q5_K
#define KQUANT_PAIRS 1  // d, dmin and twelve bytes of 6-bit pairs
#else
#define KQUANT_PAIRS 0
#endif
#if WTYPE == WTYPE_F8 && defined(TILE_WGMMA)
#define FOLD_SCALES 1
#else
#define FOLD_SCALES 0
#endif
// Further 16-byte loads of codes beside the first.
#if WTYPE == WTYPE_F32
#define MORE_CODES 3
#elif WTYPE == WTYPE_F16 || WTYPE == WTYPE_Q5_K || WTYPE == WTYPE_Q6_K
#define MORE_CODES 1
#else
#define MORE_CODES 0
#endif

// A row of weights: its codes and its parts of the side arrays.
typedef struct {
  const global uchar* codes;
  const global uchar* side0;
  const global uchar* side1;
} weight_row_t;

typedef struct {
  uint4 codes;
#if MORE_CODES
  uint4 more[MORE_CODES];
#endif
#if KQUANT_PAIRS
  uint4 pairs;
#endif
  uint side0, side1;
} run16_t;

// Byte i of the result is byte (selector >> 4 i) & 7 of b:a.
INLINE uint permute_bytes(uint a, uint b, uint selector) {
#if NV_COMPUTE >= 80
  uint result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
#else
  const ulong both = ((ulong)b << 32) | a;
  uint result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= (uint)(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  }
  return result;
#endif
}

// Two bf16 by two bf16; subnormal factors count.
INLINE uint bf16_product(uint a, uint b) {
#if NV_COMPUTE >= 80
  uint product;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
  return product;
#else
  return bf16_pair(as_float(a << 16) * as_float(b << 16),
                   as_float(a & 0xffff0000u) * as_float(b & 0xffff0000u));
#endif
}

INLINE float f32_of_f16_bits(uint bits) {
#if NV_COMPUTE >= 80
  float value;
  asm("{ .reg .b16 h, unused; mov.b32 {h, unused}, %1; cvt.f32.f16 %0, h; }"
      : "=f"(value)
      : "r"(bits));
  return value;
#else
  return f32_of_f16((uint8)(bits & 0xffffu)).s0;
#endif
}

INLINE ulong aligned16(ulong bytes) { return (bytes + 15) & ~15ul; }

// Row n of a matrix [rows, K] whose codes and side begin at byte offsets of a buffer.
INLINE weight_row_t weight_row(const global uchar* buffer, ulong codes, ulong side, long rows,
                               long n, long K) {
  weight_row_t r;
  r.side0 = buffer + side;
  r.side1 = r.side0;
#if WTYPE == WTYPE_F32
  r.codes = buffer + codes + n * K * 4;
#elif WTYPE == WTYPE_F16 || WTYPE == WTYPE_BF16
  r.codes = buffer + codes + n * K * 2;
#elif WTYPE == WTYPE_F8
  r.codes = buffer + codes + n * K;
  if (FOLD_SCALES) r.side0 += n / 128 * ((K + 127) / 128) * 4;
#elif WTYPE == WTYPE_Q8_0
  r.codes = buffer + codes + n * K;
  r.side0 += n * (K / 32) * 2;
#elif WTYPE == WTYPE_Q4_0
  r.codes = buffer + codes + n * (K / 2);
  r.side0 += n * (K / 32) * 2;
#elif WTYPE == WTYPE_Q5_0
  r.codes = buffer + codes + n * (K / 2);
  r.side0 += n * (K / 32) * 2;
  r.side1 += aligned16(rows * (K / 32) * 2) + n * (K / 32) * 4;
#elif WTYPE == WTYPE_MXFP4
  r.codes = buffer + codes + n * (K / 2);
  r.side0 += n * (K / 32);
#elif WTYPE == WTYPE_Q4_K
  r.codes = buffer + codes + n * (K / 2);
  r.side0 += n * (K / 256) * 16;
#elif WTYPE == WTYPE_Q5_K
  r.codes = buffer + codes + n * (K / 256) * 160;
  r.side0 += n * (K / 256) * 16;
#elif WTYPE == WTYPE_Q6_K
  r.codes = buffer + codes + n * (K / 256) * 192;
  r.side0 += n * (K / 256) * 16;
  r.side1 += rows * (K / 256) * 16 + n * (K / 256) * 2;
#endif
  return r;
}

// With WHOLE_LINES the cache fetches 256 bytes around at once: for forms that read 64 of a row in a
// step, of which memory alone gives no more than half its rate.
INLINE uint4 load16(const global uchar* p) {
#if defined(WHOLE_LINES) && NV_COMPUTE >= 80
  uint4 v;
  asm volatile("ld.global.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
#else
  return *(const global uint4*)p;
#endif
}

// Weights k to k + 15; k is a multiple of 16.
INLINE run16_t fetch16(weight_row_t r, int k) {
  run16_t run;
  run.side0 = 0;
  run.side1 = 0;
#if WTYPE == WTYPE_F32
  run.codes = load16(r.codes + 4 * k);
  for (int i = 0; i < 3; ++i) run.more[i] = load16(r.codes + 4 * k + 16 * (i + 1));
#elif WTYPE == WTYPE_F16
  run.codes = load16(r.codes + 2 * k);
  run.more[0] = load16(r.codes + 2 * k + 16);
#elif WTYPE == WTYPE_F8
  run.codes = load16(r.codes + k);
  if (FOLD_SCALES) run.side0 = ((const global uint*)r.side0)[k / 128];
#elif WTYPE == WTYPE_Q8_0
  run.codes = load16(r.codes + k);
  run.side0 = *(const global ushort*)(r.side0 + k / 32 * 2);
#elif WTYPE == WTYPE_Q4_0
  run.codes = load16(r.codes + k / 32 * 16);
  run.side0 = *(const global ushort*)(r.side0 + k / 32 * 2);
#elif WTYPE == WTYPE_Q5_0
  run.codes = load16(r.codes + k / 32 * 16);
  run.side0 = *(const global ushort*)(r.side0 + k / 32 * 2);
  run.side1 = *(const global uint*)(r.side1 + k / 32 * 4);
#elif WTYPE == WTYPE_MXFP4
  run.codes = load16(r.codes + k / 32 * 16);
  run.side0 = r.side0[k / 32];
#elif WTYPE == WTYPE_Q4_K
  run.codes = load16(r.codes + k / 64 * 32 + k % 32);
  run.pairs = load16(r.side0 + k / 256 * 16);
#elif WTYPE == WTYPE_Q5_K
  const global uchar* block = r.codes + k / 256 * 160;
  run.codes = load16(block + k % 256 / 64 * 32 + k % 32);
  run.more[0] = load16(block + 128 + k % 32);
  run.pairs = load16(r.side0 + k / 256 * 16);
#elif WTYPE == WTYPE_Q6_K
  const global uchar* block = r.codes + k / 256 * 192;
  run.codes = load16(block + k % 256 / 128 * 64 + k % 64);
  run.more[0] = load16(block + 128 + k % 256 / 128 * 32 + k % 32);
  run.side0 = r.side0[k / 16];
  run.side1 = *(const global ushort*)(r.side1 + k / 256 * 2);
#endif
  return run;
}

// A run of zeros, for columns beyond K.
INLINE run16_t zeros16(void) {
  run16_t run;
  run.codes = (uint4)(0);
#if MORE_CODES
  for (int i = 0; i < MORE_CODES; ++i) run.more[i] = (uint4)(0);
#endif
#if KQUANT_PAIRS
  run.pairs = (uint4)(0);
#endif
  run.side0 = 0;
  run.side1 = 0;
  return run;
}

// a q + b for the four bytes q < 128 of a word.
INLINE uint2 affine4(uint bytes, float a, float b) {
  const float c = fma(-128.0f, a, b);
  const float v0 = as_float(permute_bytes(bytes, 0x43000000u, 0x7044));
  const float v1 = as_float(permute_bytes(bytes, 0x43000000u, 0x7144));
  const float v2 = as_float(permute_bytes(bytes, 0x43000000u, 0x7244));
  const float v3 = as_float(permute_bytes(bytes, 0x43000000u, 0x7344));
  return (uint2)(bf16_pair(fma(a, v0, c), fma(a, v1, c)), bf16_pair(fma(a, v2, c), fma(a, v3, c)));
}

// d q for four signed bytes: q + 128 in the mantissa of 2^15.
INLINE uint2 signed4(uint bytes, float d) {
  const uint up = bytes ^ 0x80808080u;
  const float c = d * -32896.0f;  // exact for a d of 11 bits
  const float v0 = as_float(permute_bytes(up, 0x47000000u, 0x7404));
  const float v1 = as_float(permute_bytes(up, 0x47000000u, 0x7414));
  const float v2 = as_float(permute_bytes(up, 0x47000000u, 0x7424));
  const float v3 = as_float(permute_bytes(up, 0x47000000u, 0x7434));
  return (uint2)(bf16_pair(fma(d, v0, c), fma(d, v1, c)), bf16_pair(fma(d, v2, c), fma(d, v3, c)));
}

// Two e4m3 in the upper bytes of two halves: their bits at bf16's place are 2^-120 times too small.
INLINE uint e4m3_pair(uint upper) {
  return bf16_product((upper & 0x80008000u) | (upper >> 4 & 0x07f007f0u), 0x7b807b80u);
}
INLINE uint2 e4m3_4(uint bytes) {
  return (uint2)(e4m3_pair(permute_bytes(bytes, 0, 0x1404)),
                 e4m3_pair(permute_bytes(bytes, 0, 0x3424)));
}

#if FOLD_SCALES
// The two e4m3 in the lower half of a word, times a scale.
INLINE uint scaled_e4m3_pair(uint bytes, float scale) {
#if NV_COMPUTE >= 89
  float low, high;  // cvt.rn.f16x2.e4m3x2 is exact
  asm("{ .reg .b16 two, l, h; .reg .b32 halves; cvt.u16.u32 two, %2; "
      "cvt.rn.f16x2.e4m3x2 halves, two; mov.b32 {l, h}, halves; "
      "cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
      : "=f"(low), "=f"(high)
      : "r"(bytes));
#else
  const uint exact = e4m3_pair(permute_bytes(bytes, 0, 0x1404));
  const float low = as_float(exact << 16);
  const float high = as_float(exact & 0xffff0000u);
#endif
  return bf16_pair(low * scale, high * scale);
}
INLINE uint2 scaled_e4m3_4(uint bytes, float scale) {
  return (uint2)(scaled_e4m3_pair(bytes, scale), scaled_e4m3_pair(bytes >> 16, scale));
}
#endif

// Two e2m1 in the low nibbles of two halves, 2^-126 times too small as bf16; `scale` is 2^(e - 127)
// twice.
INLINE uint e2m1_pair(uint low, uint scale) {
  const uint small = (low & 0x00080008u) << 12 | (low & 0x00070007u) << 6;
  return bf16_product(bf16_product(small, 0x7e807e80u), scale);
}
INLINE uint2 e2m1_4(uint bytes, uint scale) {
  return (uint2)(e2m1_pair(permute_bytes(bytes, 0, 0x4140), scale),
                 e2m1_pair(permute_bytes(bytes, 0, 0x4342), scale));
}

// Four bits, one to a byte.
INLINE uint spread4(uint bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

// Scale and minimum of the run of 32 that holds k, of a block of 256.
INLINE float2 kquant_pair(uint4 pairs, int k) {
  const int shift = k / 32 % 4 * 8;
  const uint low = pairs.y >> shift;
  const uint middle = pairs.z >> shift;
  const uint high = pairs.w >> shift;
  const int late = k / 128 % 2;
  const uint scale = late ? (high & 15) | (low >> 6 & 3) << 4 : low & 63;
  const uint least = late ? (high >> 4 & 15) | (middle >> 6 & 3) << 4 : middle & 63;
  return (float2)(f32_of_f16_bits(pairs.x) * (float)scale,
                  f32_of_f16_bits(pairs.x >> 16) * (float)least);
}

INLINE uint word4(uint4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Words i and i + 1 of the eight are values 4 i / 2 to 4 i / 2 + 3 of the run that begins at k.
INLINE void decode16(run16_t run, int k, uint* out) {
#if WTYPE == WTYPE_MXFP4
  const uint power = run.side0 == 0 ? 0x40u : run.side0 << 7;
#elif WTYPE == WTYPE_Q8_0 || WTYPE == WTYPE_Q4_0 || WTYPE == WTYPE_Q5_0
  const float d = f32_of_f16_bits(run.side0);
#elif KQUANT_PAIRS
  const float2 pair = kquant_pair(run.pairs, k);
#elif WTYPE == WTYPE_Q6_K
  const float scale = f32_of_f16_bits(run.side1) * (float)as_char((uchar)run.side0);
#endif
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint q = word4(run.codes, i);
    uint2 two = (uint2)(0);
#if WTYPE == WTYPE_F32
    const uint4 f = i == 0 ? run.codes : run.more[i == 0 ? 0 : i - 1];
    two = (uint2)(bf16_pair(as_float(f.x), as_float(f.y)), bf16_pair(as_float(f.z), as_float(f.w)));
#elif WTYPE == WTYPE_F16
    const uint4 f = i < 2 ? run.codes : run.more[0];
    const uint f0 = i % 2 == 0 ? f.x : f.z;
    const uint f1 = i % 2 == 0 ? f.y : f.w;
    two = (uint2)(bf16_pair(f32_of_f16_bits(f0), f32_of_f16_bits(f0 >> 16)),
                  bf16_pair(f32_of_f16_bits(f1), f32_of_f16_bits(f1 >> 16)));
#elif FOLD_SCALES
    two = scaled_e4m3_4(q, as_float(run.side0));
#elif WTYPE == WTYPE_F8
    two = e4m3_4(q);
#elif WTYPE == WTYPE_Q8_0
    two = signed4(q, d);
#elif WTYPE == WTYPE_Q4_0
    two = affine4(q >> (k / 16 % 2 * 4) & 0x0f0f0f0fu, d, -8.0f * d);
#elif WTYPE == WTYPE_Q5_0
    const uint fifth = spread4(run.side1 >> (k / 16 % 2 * 16 + 4 * i)) << 4;
    two = affine4((q >> (k / 16 % 2 * 4) & 0x0f0f0f0fu) | fifth, d, -16.0f * d);
#elif WTYPE == WTYPE_MXFP4
    two = e2m1_4(q >> (k / 16 % 2 * 4) & 0x0f0f0f0fu, power | power << 16);
#elif WTYPE == WTYPE_Q4_K
    two = affine4(q >> (k / 32 % 2 * 4) & 0x0f0f0f0fu, pair.x, -pair.y);
#elif WTYPE == WTYPE_Q5_K
    const uint fifth = (word4(run.more[0], i) >> (k / 32 % 8) & 0x01010101u) << 4;
    two = affine4((q >> (k / 32 % 2 * 4) & 0x0f0f0f0fu) | fifth, pair.x, -pair.y);
#elif WTYPE == WTYPE_Q6_K
    const uint top = (word4(run.more[0], i) >> (k / 32 % 4 * 2) & 0x03030303u) << 4;
    two = affine4((q >> (k / 64 % 2 * 4) & 0x0f0f0f0fu) | top, scale, -32.0f * scale);
#endif
    out[2 * i] = two.x;
    out[2 * i + 1] = two.y;
  }
}
