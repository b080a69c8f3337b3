// A token's row of the KV cache: the normed latent (R values) and the roped key (d values).
//   f32, bf16, f16 : the R + d values
//   f8             : R codes e4m3, an f32 scale for each 128 of them, d values in bf16; R % 128 ==
//   0
// The bytes are those of the CPU side's cache (656 for R = 512, d = 64): blocks can be copied.
#define BLOCK 64  // tokens
#define MAX_R 512
#define MAX_D 64

INLINE int token_bytes(int R, int d) {
#if KVTYPE == KVTYPE_F32
  return 4 * (R + d);
#elif KVTYPE == KVTYPE_F8
  return R + R / 32 + 2 * d;
#else
  return 2 * (R + d);
#endif
}

INLINE float bf16_at(const global uchar* p) {
  return as_float((uint) * (const global ushort*)p << 16);
}

INLINE float8 bf16x8_at(const global uchar* p, int aligned) {
  if (!aligned) return f32_of_bf16(convert_uint8(vload8(0, (const global ushort*)p)));
  return f32_of_bf16(convert_uint8(as_ushort8(*(const global uint4*)p)));
}

#if KVTYPE == KVTYPE_F8
// NaN does not occur: mla_append saturates, and the CPU side does.
INLINE float8 f8_values(uint8 codes) {
  const uint8 magnitude = (codes & 0x7fu) << 20;
  const float8 normal = as_float8(magnitude + 0x3c000000u);
  const float8 small = as_float8(magnitude + 0x3c800000u) - 0x1p-6f;
  const float8 value = select(normal, small, magnitude < (uint8)(0x00800000u));
  return as_float8(as_uint8(value) | (codes & 0x80u) << 24);
}

INLINE float f8_scale(const global uchar* token, int i, int R) {
  return *(const global float*)(token + R + i / 128 * 4);
}
#endif

// Value i of a token.
INLINE float kv1(const global uchar* token, int i, int R) {
#if KVTYPE == KVTYPE_F32
  return ((const global float*)token)[i];
#elif KVTYPE == KVTYPE_F16
  return vload_half(i, (const global half*)token);
#elif KVTYPE == KVTYPE_BF16
  return bf16_at(token + 2 * i);
#else
  if (i >= R) return bf16_at(token + R + R / 32 + 2 * (i - R));
  return f8_values((uint8)(token[i])).s0 * f8_scale(token, i, R);
#endif
}

// Values i to i + 7, i % 8 == 0; aligned: rows of the cache are multiples of 16 bytes.
INLINE float8 kv8(const global uchar* token, int i, int R, int aligned) {
#if KVTYPE == KVTYPE_F32
  return load8((const global float*)token + i, aligned);
#elif KVTYPE == KVTYPE_F16
  const global half* p = (const global half*)token + i;
  if (!aligned) return f32_of_f16(convert_uint8(vload8(0, (const global ushort*)p)));
  return vloada_half8(0, p);
#elif KVTYPE == KVTYPE_BF16
  return bf16x8_at(token + 2 * i, aligned);
#else
  if (i >= R) return bf16x8_at(token + R + R / 32 + 2 * (i - R), aligned);
  const uchar8 codes =
      aligned ? as_uchar8(*(const global uint2*)(token + i)) : vload8(0, token + i);
  return f8_values(convert_uint8(codes)) * f8_scale(token, i, R);
#endif
}

INLINE ushort bf16_of(float value) {
  const uint u = as_uint(value);
  const uint rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (ushort)(isnan(value) ? (u >> 16) | 0x40u : rounded);
}
