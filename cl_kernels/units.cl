// How a GPU reads weights for few rows of x: a work-item takes a unit, 16 bytes of codes of one row
// at a time, and multiplies its UNIT weights by x from local memory.
//
//   unit_place(k)      which unit and which of its vectors of four a value of x belongs to
//   load_unit(row, u)  the codes of unit u and what scales them, without decoding: several are in
//                      flight at once
//   codes4(raw, u, j)  four codes as floats, to be multiplied by vector j of the unit's x
//   run_scale(raw, ..) the factor (and the minimum) of a run, applied to the run's sum
//
// Codes become floats by masks alone where f32 has subnormals: an integer i < 2^24 read as the bits
// of a float is i 2^-149, so byte 1 of a word, masked, is its code times 2^(8 - 149). The powers of
// two are made up for in x (X_SCALE, when it goes to local memory) and in the scale (BACK): exact
// for |x| in 2^-67 .. 2^37. Two instructions a weight, the product included.
#if TEAM > 1
#if WTYPE == WTYPE_F32 || WTYPE == WTYPE_BF16 || WTYPE == WTYPE_F16
#define UNIT 8
#elif WTYPE == WTYPE_F8 || WTYPE == WTYPE_Q8_0
#define UNIT 16
#else
#define UNIT 32
#endif
#define VECTORS (UNIT / 4)
// Runs of a unit, each with a scale of its own.
#if K_QUANT || WTYPE == WTYPE_Q6_K
#define RUNS 2
#else
#define RUNS 1
#endif
#define HAS_SCALE (WTYPE >= WTYPE_F8)
#define INTEGER_CODES (WTYPE > WTYPE_F8 && WTYPE != WTYPE_MXFP4)

#if DENORMALS && INTEGER_CODES
#define X_SCALE ((float4)(0x1p90f, 0x1p82f, 0x1p74f, 0x1p74f))
#define X_UNSCALE ((float4)(0x1p-90f, 0x1p-82f, 0x1p-74f, 0x1p-74f))
#define BACK 0x1p59f
#elif DENORMALS && HAS_SCALE
#define X_SCALE ((float4)(0x1p90f))
#define BACK (WTYPE == WTYPE_F8 ? 0x1p30f : 0x1p37f)
#else
#define X_SCALE ((float4)(1.0f))
#define X_UNSCALE ((float4)(1.0f))
#define BACK 1.0f
#endif

// A row of a matrix.
typedef struct {
  const global uchar* codes;
  const global uchar* side0;
  const global uchar* side1;
} row_t;

INLINE row_t row_of(matrix_t m, long n) {
  row_t row;
  row.codes = m.data + n * CODE_BYTES(m.K);
  row.side0 = m.side;
  row.side1 = m.side;
#if WTYPE == WTYPE_F8
  row.side0 += n / 128 * ((m.K + 127) / 128) * 4;
#elif WTYPE == WTYPE_MXFP4
  row.side0 += n * (m.K / 32);
#elif K_QUANT
  row.side0 += n * (m.K / 256) * 16;
#elif WTYPE == WTYPE_Q6_K
  row.side0 += n * (m.K / 256) * 16;
  row.side1 = side1(m) + n * (m.K / 256) * 2;
#elif WTYPE > WTYPE_F8
  row.side0 += n * (m.K / 32) * 2;
#if WTYPE == WTYPE_Q5_0
  row.side1 = side1(m) + n * (m.K / 32) * 4;
#endif
#endif
  return row;
}

// (unit, vector) of x[k], k % 4 == 0.
INLINE int2 unit_place(int k) {
#if K_QUANT
  return (int2)(k / 256 * 8 + k % 256 / 64 * 2 + k % 32 / 16, k % 64 / 32 * 4 + k % 16 / 4);
#elif WTYPE == WTYPE_Q6_K
  return (int2)(k / 128 * 4 + k % 64 / 32 * 2 + k % 32 / 16, k % 128 / 64 * 4 + k % 16 / 4);
#else
  return (int2)(k / UNIT, k % UNIT / 4);
#endif
}

typedef struct {
  uint4 codes;
#if WTYPE == WTYPE_F32 || WTYPE == WTYPE_Q5_K || WTYPE == WTYPE_Q6_K
  uint4 more;  // the second half of the values; the high bits
#elif WTYPE == WTYPE_Q5_0
  uint more;
#endif
#if K_QUANT
  uint4 header;  // d, dmin, scales[12]
#elif WTYPE == WTYPE_MXFP4
  uint scale;
#elif HAS_SCALE
  float scale;
#endif
#if WTYPE == WTYPE_Q6_K
  char low_run, high_run;
#endif
} raw_t;

INLINE raw_t load_unit(row_t row, int u) {
  raw_t raw;
#if WTYPE == WTYPE_F32
  raw.codes = ((const global uint4*)row.codes)[2 * u];
  raw.more = ((const global uint4*)row.codes)[2 * u + 1];
#elif WTYPE == WTYPE_Q5_K
  const global uint4* block = (const global uint4*)(row.codes + u / 8 * 160);
  raw.codes = block[u % 8];
  raw.more = block[8 + u % 2];
#elif WTYPE == WTYPE_Q6_K
  const global uint4* block = (const global uint4*)(row.codes + u / 8 * 192);
  raw.codes = block[u % 8];
  raw.more = block[8 + u % 8 / 4 * 2 + u % 2];
#else
  raw.codes = ((const global uint4*)row.codes)[u];
#endif
#if WTYPE == WTYPE_F8
  raw.scale = ((const global float*)row.side0)[u / 8];
#elif WTYPE == WTYPE_Q8_0
  raw.scale = half_at(row.side0, u / 2);
#elif WTYPE == WTYPE_MXFP4
  raw.scale = row.side0[u];
#elif K_QUANT
  raw.header = ((const global uint4*)row.side0)[u / 8];
#elif WTYPE == WTYPE_Q6_K
  raw.scale = half_at(row.side1, u / 8);
  const global char* runs = (const global char*)row.side0 + u / 8 * 16 + u % 8 / 4 * 8 + u % 4;
  raw.low_run = runs[0];
  raw.high_run = runs[4];
#elif WTYPE > WTYPE_F8
  raw.scale = half_at(row.side0, u);
#if WTYPE == WTYPE_Q5_0
  raw.more = ((const global uint*)row.side1)[u];
#endif
#endif
  return raw;
}

INLINE uint word_of(uint4 v, const int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Four codes of up to eight bits, one in each byte of w under the mask, less `bias`.
INLINE float4 codes_of_bytes(uint w, const uint mask, const uint bias) {
#if DENORMALS
  const uint4 bits = (uint4)(w & mask, w & mask << 8, w & mask << 16, w >> 8 & mask << 16);
  const float4 value = as_float4(bits);
  return bias == 0 ? value : value - as_float4((uint4)(bias, bias << 8, bias << 16, bias << 16));
#else
  const uint4 code = (uint4)(w, w >> 8, w >> 16, w >> 24) & mask;
  return as_float4(code | 0x4b000000u) - (0x1p23f + (float)bias);
#endif
}

INLINE float f32_of_half(ushort bits) {
#if NV_COMPUTE > 0
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return f32_of_f16((uint8)(bits)).s0;
#endif
}

// Four bits to bit 4 of four bytes.
INLINE uint spread_bits(uint bits) { return ((bits & 15u) * 0x00204081u & 0x01010101u) << 4; }

INLINE float4 codes4(const raw_t* raw, int u, const int j) {
#if WTYPE == WTYPE_F32
  return as_float4(j == 0 ? raw->codes : raw->more);
#elif WTYPE == WTYPE_BF16
  const uint a = word_of(raw->codes, 2 * j);
  const uint b = word_of(raw->codes, 2 * j + 1);
  return as_float4((uint4)(a << 16, a & 0xffff0000u, b << 16, b & 0xffff0000u));
#elif WTYPE == WTYPE_F16
  const uint a = word_of(raw->codes, 2 * j);
  const uint b = word_of(raw->codes, 2 * j + 1);
  return (float4)(f32_of_half((ushort)a), f32_of_half((ushort)(a >> 16)), f32_of_half((ushort)b),
                  f32_of_half((ushort)(b >> 16)));
#elif WTYPE == WTYPE_F8
  const uint w = word_of(raw->codes, j);
#if DENORMALS  // sign and the rest are brought to their places by one arithmetic shift: times
               // 2^-120
  const int4 places = as_int4((uint4)(w << 24, w << 16, w << 8, w)) >> 4;
  return as_float4(places & (int4)(0x87f00000));
#else
  return f32_of_f8((uint8)(w & 255u, w >> 8 & 255u, w >> 16 & 255u, w >> 24, 0, 0, 0, 0)).lo;
#endif
#elif WTYPE == WTYPE_Q8_0
  return codes_of_bytes(word_of(raw->codes, j) ^ 0x80808080u, 255u, 128u);
#elif WTYPE == WTYPE_MXFP4
  const uint w = word_of(raw->codes, j % 4);
#if DENORMALS  // as for f8: times 2^-126
  const uint4 top =
      j < 4 ? (uint4)(w << 28, w << 20, w << 12, w << 4) : (uint4)(w << 24, w << 16, w << 8, w);
  return as_float4(as_int4(top) >> 6 & (int4)(0x81c00000));
#else
  const uint half_byte = j < 4 ? w : w >> 4;
  const uint8 code =
      (uint8)(half_byte, half_byte >> 8, half_byte >> 16, half_byte >> 24, 0, 0, 0, 0) & 15u;
  return f32_of_e2m1_doubled(code).lo;
#endif
#else
  const uint word = word_of(raw->codes, j % 4);
  const uint low = j < 4 ? word : word >> 4;
#if WTYPE == WTYPE_Q4_0
  return codes_of_bytes(low, 15u, 8u);
#elif WTYPE == WTYPE_Q4_K
  return codes_of_bytes(low, 15u, 0u);
#elif WTYPE == WTYPE_Q5_0
  return codes_of_bytes((low & 0x0f0f0f0fu) | spread_bits(raw->more >> (4 * j)), 31u, 16u);
#elif WTYPE == WTYPE_Q5_K
  const uint fifth = word_of(raw->more, j % 4) >> (u % 8 / 2 * 2 + j / 4) & 0x01010101u;
  return codes_of_bytes((low & 0x0f0f0f0fu) | fifth << 4, 31u, 0u);
#else
  const uint high = word_of(raw->more, j % 4) >> (u % 4 / 2 * 2 + j / 4 * 4) & 0x03030303u;
  return codes_of_bytes((low & 0x0f0f0f0fu) | high << 4, 63u, 32u);
#endif
#endif
}

#if K_QUANT
// Scales (low half) and minima (high half) of both runs of a unit: two 6-bit codes each, in bytes.
INLINE uint run_codes(uint4 header, int u) {
  const int pair = u % 8 / 2;
  const int shift = pair % 2 * 16;
  const uint a = header.y >> shift;
  const uint b = header.z >> shift;
  const uint c = header.w >> shift;
  const uint low = (a & 0x3f3fu) | (b & 0x3f3fu) << 16;
  const uint high = ((c & 0x0f0fu) | (a & 0xc0c0u) >> 2) | ((c >> 4 & 0x0f0fu) | (b & 0xc0c0u) >> 2)
                                                               << 16;
  return pair < 2 ? low : high;
}

INLINE float f32_of_byte(uint w, const int i) {
  return as_float((w >> 8 * i & 255u) | 0x4b000000u) - 0x1p23f;
}
#endif

// (scale, minimum) of run h, for a sum over codes4 times the x of local memory: w = scale n - min.
INLINE float2 run_scale(const raw_t* raw, int u, const int h) {
#if K_QUANT
  const uint codes = run_codes(raw->header, u);
  const float d = f32_of_half((ushort)raw->header.x);
  const float dmin = f32_of_half((ushort)(raw->header.x >> 16));
  return (float2)(d * f32_of_byte(codes, h) * BACK, dmin * f32_of_byte(codes, 2 + h));
#elif WTYPE == WTYPE_Q6_K
  return (float2)(raw->scale * (float)(h == 0 ? raw->low_run : raw->high_run) * BACK, 0.0f);
#elif WTYPE == WTYPE_MXFP4
  return (float2)(e8m0_halved(raw->scale), 0.0f);
#elif HAS_SCALE
  return (float2)(raw->scale * BACK, 0.0f);
#else
  return (float2)(1.0f, 0.0f);
#endif
}
#endif  // TEAM > 1
