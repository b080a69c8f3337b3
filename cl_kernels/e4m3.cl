// x in FP8 (e4m3) with an f32 scale for each row and 128 columns, for products with FP8 weights:
//   amax = max(max |x|, 1e-4)   scale = amax / 448   code = e4m3(x / scale), to nearest even
// Both quotients are those of exact division, so that every device makes the same codes.
#define F8_COLUMNS 128
#define F8_MOST 448.0f

// x / d to nearest, of the device's division, which may be wrong by a few units of its last place.
INLINE float exact_quotient(float x, float d) {
  float r = 1.0f / d;
  r = fma(fma(-r, d, 1.0f), r, r);
  r = fma(fma(-r, d, 1.0f), r, r);
  const float q = x * r;
  return fma(fma(-q, d, x), r, q);
}

// The e4m3 nearest to v, to even: four bits of a normal one, else a multiple of 2^-9.
INLINE float e4m3_nearest(float v) {
  const float size = fabs(v);
  const uint bits = as_uint(size);
  const float normal = as_float((bits + 0x7ffffu + (bits >> 20 & 1)) & 0xfff00000u);
  const float value = size < 0x1p-6f ? rint(size * 0x1p9f) * 0x1p-9f : fmin(normal, F8_MOST);
  return as_float(as_uint(value) | (as_uint(v) & 0x80000000u));
}

INLINE uint e4m3_of(float v) {
  const uint bits = as_uint(e4m3_nearest(v));
  const float size = as_float(bits & 0x7fffffffu);
  const uint code = size < 0x1p-6f ? (uint)(size * 0x1p9f) : (bits >> 20 & 0x7ffu) - (120 << 3);
  return code | (bits >> 24 & 0x80u);
}

// Four codes; the first is the lowest byte.
INLINE uint e4m3_word(float4 v) {
#if NV_COMPUTE >= 89
  ushort low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(v.y), "f"(v.x));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(v.w), "f"(v.z));
  return low | (uint)high << 16;
#else
  return e4m3_of(v.x) | e4m3_of(v.y) << 8 | e4m3_of(v.z) << 16 | e4m3_of(v.w) << 24;
#endif
}

// Sixteen items have a row's 128 columns, eight each: their scale. `most` has a place for each item.
INLINE float e4m3_scale(float8 v, local float* most) {
  const float8 size = fabs(v);
  const float4 half_of = fmax(size.lo, size.hi);
  float amax = fmax(fmax(half_of.x, half_of.y), fmax(half_of.z, half_of.w));
#if NV_COMPUTE >= 70
#pragma unroll
  for (int mask = 1; mask < 16; mask *= 2) amax = fmax(amax, from_lane(amax, mask));
#else
  const int lid = (int)get_local_id(0);
  most[lid] = amax;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = 0; i < 16; ++i) amax = fmax(amax, most[lid / 16 * 16 + i]);
#endif
  return exact_quotient(fmax(amax, 1e-4f), F8_MOST);
}

// In the order of the fragments of mma and wgmma with k32: rows in 16s (rows beyond T are zeros),
// each as ceil(K / 128) pieces of 128 columns (zeros beyond K), each as four runs of 32 columns of
// 32 times 16 bytes, lane by lane: columns 4 c to 4 c + 3 of rows l / 4 and l / 4 + 8, then 16
// columns on; c = l % 4. Behind all pieces their scales, 16 floats each.
//   K % 8 == 0                                   global ceil(T / 16) ceil(K / 128) * 256, local 256
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void e4m3_fragments(
    const global float* x, long x_offset, long x_stride, int aligned, int T, int K, global uint* out,
    long out_offset) {
  local float most[256];
  local uint codes[16 * 32];
  const int lid = (int)get_local_id(0);
  const int pieces = (K + F8_COLUMNS - 1) / F8_COLUMNS;
  const long piece = (long)get_group_id(0);
  global float* const scales =
      (global float*)(out + out_offset) + (long)((T + 15) / 16) * pieces * (16 * F8_COLUMNS / 4);
  const long t = piece / pieces * 16 + lid / 16;
  const int k = (int)(piece % pieces) * F8_COLUMNS + lid % 16 * 8;
  const float8 v =
      t < T && k < K ? load8(x + x_offset + t * x_stride + k, aligned) : (float8)(0.0f);
  const float scale = e4m3_scale(v, most);
  float q[8] = {v.s0, v.s1, v.s2, v.s3, v.s4, v.s5, v.s6, v.s7};
#pragma unroll
  for (int i = 0; i < 8; ++i) q[i] = exact_quotient(q[i], scale);
  codes[lid * 2] = e4m3_word((float4)(q[0], q[1], q[2], q[3]));
  codes[lid * 2 + 1] = e4m3_word((float4)(q[4], q[5], q[6], q[7]));
  if (lid % 16 == 0) scales[piece * 16 + lid / 16] = scale;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid >= 128) return;
  const local uint* const from = codes + lid % 32 / 4 * 32 + lid / 32 * 8 + lid % 4;
  *(global uint4*)(out + out_offset + (piece * 128 + lid) * 4) =
      (uint4)(from[0], from[256], from[4], from[260]);
}

// Row by row, for products that gather rows: a row is ceil(K / 128) blocks of 128 bytes, in which
// item c = l % 4 of wgmma has 16 bytes of either half: runs of 32 columns, of each its columns
// 4 c to 4 c + 3, then those 16 columns on. Behind all rows a float for each block, their scales.
INLINE void e4m3_row_piece(float8 v, int inside, long t, int k, int T, int K, global uint* out,
                           local float* most) {
  const int blocks = (K + F8_COLUMNS - 1) / F8_COLUMNS;
  const int eighth = (int)get_local_id(0) % 16;
  const float scale = e4m3_scale(v, most);
  if (!inside) return;
  float q[8] = {v.s0, v.s1, v.s2, v.s3, v.s4, v.s5, v.s6, v.s7};
  for (int i = 0; i < 8; ++i) q[i] = exact_quotient(q[i], scale);
  const long block = t * blocks + k / F8_COLUMNS;
  global uint* const to =
      out + block * 32 + eighth / 8 * 16 + eighth % 2 * 8 + eighth / 4 % 2 * 2 + eighth / 2 % 2;
  to[0] = e4m3_word((float4)(q[0], q[1], q[2], q[3]));
  to[4] = e4m3_word((float4)(q[4], q[5], q[6], q[7]));
  if (eighth == 0) ((global float*)out)[(long)T * blocks * 32 + block] = scale;
}

// Codes of columns beyond K are zeros.
//   K % 8 == 0                                   global ceil(T / 16) ceil(K / 128) * 256, local 256
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void e4m3_rows(
    const global float* x, long x_offset, long x_stride, int aligned, int T, int K, global uint* out,
    long out_offset) {
  local float most[256];
  const int lid = (int)get_local_id(0);
  const int pieces = (K + F8_COLUMNS - 1) / F8_COLUMNS;
  const long t = (long)get_group_id(0) / pieces * 16 + lid / 16;
  const int k = (int)((long)get_group_id(0) % pieces) * F8_COLUMNS + lid % 16 * 8;
  const float8 v =
      t < T && k < K ? load8(x + x_offset + t * x_stride + k, aligned) : (float8)(0.0f);
  e4m3_row_piece(v, t < T, t, k, T, K, out + out_offset, most);
}

// The rounded values themselves in f32, rows packed: for devices whose products are in f32.
//   K % 8 == 0                                   global ceil(T / 16) ceil(K / 128) * 256, local 256
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void e4m3_values(
    const global float* x, long x_offset, long x_stride, int aligned, int T, int K,
    global float* out, long out_offset) {
  local float most[256];
  const int lid = (int)get_local_id(0);
  const int pieces = (K + F8_COLUMNS - 1) / F8_COLUMNS;
  const long piece = (long)get_group_id(0);
  const long t = piece / pieces * 16 + lid / 16;
  const int k = (int)(piece % pieces) * F8_COLUMNS + lid % 16 * 8;
  const int inside = t < T && k < K;
  const float8 v = inside ? load8(x + x_offset + t * x_stride + k, aligned) : (float8)(0.0f);
  const float scale = e4m3_scale(v, most);
  if (!inside) return;
  float q[8] = {v.s0, v.s1, v.s2, v.s3, v.s4, v.s5, v.s6, v.s7};
  for (int i = 0; i < 8; ++i) {
    out[out_offset + t * K + k + i] = e4m3_nearest(exact_quotient(q[i], scale)) * scale;
  }
}
