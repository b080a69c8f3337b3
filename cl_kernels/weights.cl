// Decoding of weights in device memory, one format (WTYPE) a program: everything that multiplies by
// weights goes through matrix_t and the functions below.
//
//   matrix_at(...)     a matrix [rows, K] in a buffer
//   weights8(m, n, k)  w[n, k..k+8), scaled       k % 8 == 0, k + 8 <= K, and chunks_fit(m)
//   weight_at(m, n, k) w[n, k], scaled            scalar formats only
//   tile_weights(...)  as weights8, wherever k lies and zero beyond the matrix
//
// Codes of a block format lie apart from its scales: memory/split_layout.h has the layout and
// memory/blocks.h the meaning of the bits.
#if WTYPE == WTYPE_F32
#define WBYTES 4
#elif WTYPE == WTYPE_F8
#define WBYTES 1
#else
#define WBYTES 2
#endif
#define SCALAR_FORMAT (WTYPE <= WTYPE_F8)
#define K_QUANT (WTYPE == WTYPE_Q4_K || WTYPE == WTYPE_Q5_K)

// Bytes of a row's codes for K weights.
#if SCALAR_FORMAT
#define CODE_BYTES(K) ((K)*WBYTES)
#elif WTYPE == WTYPE_Q8_0
#define CODE_BYTES(K) (K)
#elif WTYPE == WTYPE_Q5_K
#define CODE_BYTES(K) ((K) / 256 * 160)
#elif WTYPE == WTYPE_Q6_K
#define CODE_BYTES(K) ((K) / 256 * 192)
#else
#define CODE_BYTES(K) ((K) / 2)
#endif

typedef struct {
  const global uchar* data;
  const global uchar*
      side;   // f8: f32 scales [ceil(rows / 128), ceil(K / 128)]; blocks: split_layout.h
  long rows;  // of the whole matrix: where the second side array begins depends on it
  long K;
} matrix_t;

INLINE matrix_t matrix_at(const global uchar* buffer, ulong offset, ulong scale_offset, long rows,
                          long K) {
  matrix_t m;
  m.data = buffer + offset;
  m.side = buffer + scale_offset;
  m.rows = rows;
  m.K = K;
  return m;
}

// True where 16 bytes of codes of any row can be loaded at once: always for block formats, whose
// rows are whole blocks and whose units of 16 bytes begin at multiples of 16.
INLINE int chunks_fit(matrix_t m) {
#if SCALAR_FORMAT
  return (m.K * WBYTES) % 16 == 0;
#else
  return 1;
#endif
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

// Twice the value of an e2m1 code: 0 1 2 3 4 6 8 12, and the same with the sign of bit 3.
INLINE float8 f32_of_e2m1_doubled(uint8 code) {
  const uint8 magnitude = (code & 7u) << 22;
  const uint8 sign = (code & 8u) << 28;
#if DENORMALS
  return as_float8(magnitude | sign) * 0x1p126f * 2.0f;
#else
  const float8 normal = as_float8(magnitude + 0x3f800000u);
  const float8 small = as_float8(magnitude + 0x40000000u) - 2.0f;
  const float8 value = select(normal, small, magnitude < (uint8)(0x00800000u));
  return as_float8(as_uint8(value) | sign);
#endif
}

// Codes below 2^23. A GPU converts integers at a fraction of the rate at which it adds.
INLINE float8 f32_of_code(uint8 code) {
#if TEAM == 1
  return convert_float8(as_int8(code));
#else
  return as_float8(code | 0x4b000000u) - 0x1p23f;
#endif
}

INLINE uint8 bytes8(const global uchar* p) {
  return convert_uint8(as_uchar8(*(const global uint2*)p));
}

// The scale of two code bytes' worth: an f16 of the first side array.
INLINE float half_at(const global uchar* p, long i) { return vload_half(i, (const global half*)p); }

// Where the second side array begins.
INLINE const global uchar* side1(matrix_t m) {
#if WTYPE == WTYPE_Q5_0
  return m.side + (m.rows * (m.K / 32) * 2 + 15) / 16 * 16;
#else
  return m.side + m.rows * (m.K / 256) * 16;  // Q6_K
#endif
}

// Half of 2^(e - 127), exact for every e: e < 2 gives a subnormal number.
INLINE float e8m0_halved(uint e) { return as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

// Q4_K, Q5_K: the factors of run j < 8 of a block, from the 16 bytes d, dmin, scales[12]: w = scale
// n - min. Runs 4 to 7 keep their high bits above the codes of 0 to 3.
INLINE float2 run_factors(const global uchar* header, int j) {
  const global uchar* s = header + 4;
  uint scale, low;
  if (j < 4) {
    scale = s[j] & 63;
    low = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    low = s[j + 4] >> 4 | (s[j] >> 6) << 4;
  }
  return (float2)(half_at(header, 0) * (float)scale, half_at(header, 1) * (float)low);
}

// The factor of w[n, k] that is shared by 8 weights or more; 1 for formats without.
INLINE float scale_at(matrix_t m, long n, long k) {
#if WTYPE == WTYPE_F8
  return ((const global float*)m.side)[(n / 128) * ((m.K + 127) / 128) + k / 128];
#elif WTYPE == WTYPE_MXFP4
  return e8m0_halved(m.side[(n * m.K + k) / 32]);
#elif WTYPE == WTYPE_Q6_K
  const long at = n * m.K + k;
  return half_at(side1(m), at / 256) * (float)(char)m.side[at / 16];
#elif SCALAR_FORMAT
  return 1.0f;
#else
  return half_at(m.side, (n * m.K + k) / 32);
#endif
}

// Eight values that lie at p, of a scalar format without scales: p aligned to 8 * WBYTES, at
// most 16.
#if SCALAR_FORMAT
INLINE float8 values8(const global uchar* p) {
#if WTYPE == WTYPE_F32
  const global float4* q = (const global float4*)p;
  return (float8)(q[0], q[1]);
#elif WTYPE == WTYPE_BF16
  return f32_of_bf16(convert_uint8(as_ushort8(*(const global uint4*)p)));
#elif WTYPE == WTYPE_F16
  return f32_of_f16(convert_uint8(as_ushort8(*(const global uint4*)p)));
#else
  return f32_of_f8(bytes8(p));
#endif
}
#endif

INLINE float8 weights8(matrix_t m, long n, long k) {
  const long at = n * m.K + k;
#if SCALAR_FORMAT
#if WTYPE == WTYPE_F8
  return values8(m.data + at) * scale_at(m, n, k);
#else
  return values8(m.data + at * WBYTES);
#endif
#elif WTYPE == WTYPE_Q8_0
  const char8 codes = as_char8(*(const global uint2*)(m.data + at));
#if TEAM == 1
  return convert_float8(codes) * scale_at(m, n, k);
#else
  const uint8 lifted = convert_uint8(as_uchar8(codes) ^ (uchar8)(128));
  return (as_float8(lifted | 0x4b000000u) - (0x1p23f + 128.0f)) * scale_at(m, n, k);
#endif
#elif WTYPE == WTYPE_Q4_0 || WTYPE == WTYPE_MXFP4 || WTYPE == WTYPE_Q5_0
  const int i = (int)(k % 32);
  const uint8 code = bytes8(m.data + at / 32 * 16 + i % 16) >> (uint8)(i / 16 * 4) & 15u;
#if WTYPE == WTYPE_Q4_0
  return (f32_of_code(code) - 8.0f) * scale_at(m, n, k);
#elif WTYPE == WTYPE_MXFP4
  return f32_of_e2m1_doubled(code) * scale_at(m, n, k);
#else
  const uint high = ((const global uint*)side1(m))[at / 32] >> i;
  const uint8 fifth = (uint8)(high) >> (uint8)(0, 1, 2, 3, 4, 5, 6, 7) & 1u;
  return (f32_of_code(code | fifth << 4) - 16.0f) * scale_at(m, n, k);
#endif
#elif K_QUANT
  const int run = (int)(k % 256) / 32;
  const int i = (int)(k % 32);
  const global uchar* block = m.data + at / 256 * (WTYPE == WTYPE_Q4_K ? 128 : 160);
  uint8 code = bytes8(block + run / 2 * 32 + i) >> (uint8)(run % 2 * 4) & 15u;
#if WTYPE == WTYPE_Q5_K
  code |= (bytes8(block + 128 + i) >> (uint8)(run)&1u) << 4;
#endif
  const float2 f = run_factors(m.side + at / 256 * 16, run);
  return f32_of_code(code) * f.x - f.y;
#else
  const int i = (int)(k % 128);  // of a half block: 32 values in each of four groups
  const global uchar* block = m.data + at / 256 * 192;
  const int half_block = (int)(k % 256) / 128;
  const uint8 low = bytes8(block + half_block * 64 + i % 64) >> (uint8)(i / 64 * 4) & 15u;
  const uint8 high = bytes8(block + 128 + half_block * 32 + i % 32) >> (uint8)(i / 32 * 2) & 3u;
  return (f32_of_code(low | high << 4) - 32.0f) * scale_at(m, n, k);
#endif
}

#if SCALAR_FORMAT
// One weight, wherever it lies.
INLINE float weight_at(matrix_t m, long n, long k) {
  const global uchar* p = m.data + (n * m.K + k) * WBYTES;
#if WTYPE == WTYPE_F32
  return *(const global float*)p;
#elif WTYPE == WTYPE_BF16
  return as_float((uint) * (const global ushort*)p << 16);
#elif WTYPE == WTYPE_F16
  return f32_of_f16((uint8)(*(const global ushort*)p)).s0;
#else
  return f32_of_f8((uint8)(*p)).s0 * scale_at(m, n, k);
#endif
}
#endif

// Eight weights of row n from k on (k % 8 == 0), zero beyond the matrix: from row n_end or K on.
INLINE float8 tile_weights(matrix_t m, long n, long n_end, long k, int aligned) {
  if (n >= n_end || k >= m.K) return (float8)(0.0f);
#if SCALAR_FORMAT
  if (!aligned || k + 8 > m.K) {
    float v[8];
    for (int i = 0; i < 8; ++i) v[i] = k + i < m.K ? weight_at(m, n, k + i) : 0.0f;
    return vload8(0, v);
  }
#endif
  return weights8(m, n, k);
}
