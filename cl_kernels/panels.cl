// out[n, k] = w[n, k] in bf16, to nearest even, for a matrix [rows, K] that lies in panels of 16
// rows as the CPU keeps block formats (cpu_kernels/panel.h): what streams to the device does so as
// it lies.
//   panels : ceil(rows / 16) panels      out : bf16 [rows, K] row-major
// A work-item decodes 16 columns of a row, so that neighbours read neighbouring rows of a panel.
//   panels_to_bf16  global (ceil(K / 256) * 256, ceil(rows / 16))   local (256, 1)
#if WTYPE == WTYPE_Q8_0
#define UNIT 544
#elif WTYPE == WTYPE_Q4_0
#define UNIT 288
#elif WTYPE == WTYPE_Q5_0
#define UNIT 352
#elif WTYPE == WTYPE_MXFP4
#define UNIT 272
#elif WTYPE == WTYPE_Q4_K
#define UNIT 2304
#elif WTYPE == WTYPE_Q5_K
#define UNIT 2816
#elif WTYPE == WTYPE_Q6_K
#define UNIT 3360
#endif

#ifdef UNIT
#define UNIT_COLUMNS (WTYPE == WTYPE_Q4_K || WTYPE == WTYPE_Q5_K || WTYPE == WTYPE_Q6_K ? 256 : 32)
#define HALF(p, i) vload_half(i, (const global half*)(p))

INLINE uint bf16_of(float value) {
  const uint u = as_uint(value);
  return isnan(value) ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

// Codes of quad q of half h of a run of 32 columns, four columns in the bytes of a word.
INLINE uint codes4(const global uchar* run, int q, int h, int row) {
  return ((const global uint*)run)[q * 16 + row] >> (4 * h) & 0x0f0f0f0fu;
}
INLINE uint codes2(const global uchar* run, int q, int h, int row) {
  return ((const global uint*)run)[h * 16 + row] >> (2 * q) & 0x03030303u;
}
INLINE uint codes1(const global uchar* run, int q, int h, int row) {
  return ((const global uint*)run)[row] >> (4 * h + q) & 0x01010101u;
}
INLINE float4 values4(uint codes) { return convert_float4(as_uchar4(codes)); }

// d sc n - dmin m of run j: PanelQ4_K's head is that of PanelQ5_K.
INLINE float2 panel_factors(const global uchar* unit, int j, int row) {
  const uint low = unit[64 + j * 16 + row];
  const uint high = ((const global uint*)(unit + 192))[row] >> (4 * j) & 15u;
  return (float2)(HALF(unit, row) * (float)((low & 15u) | (high & 3u) << 4),
                  HALF(unit + 32, row) * (float)((low >> 4) | (high >> 2) << 4));
}

// Four columns: quad q of half h of run j of a unit.
INLINE float4 panel_values(const global uchar* unit, int j, int h, int q, int row) {
#if WTYPE == WTYPE_Q8_0
  const uint codes = ((const global uint*)(unit + 32))[(4 * h + q) * 16 + row];
  return (values4(codes) - 128.0f) * HALF(unit, row);
#elif WTYPE == WTYPE_Q4_0
  return (values4(codes4(unit + 32, q, h, row)) - 8.0f) * HALF(unit, row);
#elif WTYPE == WTYPE_Q5_0
  const uint codes = codes4(unit + 96, q, h, row) | codes1(unit + 32, q, h, row) << 4;
  return (values4(codes) - 16.0f) * HALF(unit, row);
#elif WTYPE == WTYPE_MXFP4
  const uint codes = codes4(unit + 16, q, h, row);
  const uint4 code = convert_uint4(as_uchar4(codes));
  return f32_of_e2m1_doubled((uint8)(code, code)).lo * e8m0_halved(unit[row]);
#elif WTYPE == WTYPE_Q4_K
  const float2 f = panel_factors(unit, j, row);
  return values4(codes4(unit + 256 + j * 256, q, h, row)) * f.x - f.y;
#elif WTYPE == WTYPE_Q5_K
  const float2 f = panel_factors(unit, j, row);
  const uint codes =
      codes4(unit + 768 + j * 256, q, h, row) | codes1(unit + 256 + j * 64, q, h, row) << 4;
  return values4(codes) * f.x - f.y;
#else
  const float scale =
      HALF(unit, row) * (float)((const global char*)(unit + 32))[(2 * j + h) * 16 + row];
  const uint codes =
      codes4(unit + 1312 + j * 256, q, h, row) | codes2(unit + 288 + j * 128, q, h, row) << 4;
  return (values4(codes) - 32.0f) * scale;
#endif
}

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void panels_to_bf16(
    const global uchar* panels, long panels_offset, global ushort* out, long out_offset, int rows,
    int K) {
  const int lid = (int)get_local_id(0);
  const int row = lid % 16;
  const int k = (int)get_group_id(0) * 256 + lid / 16 * 16;
  const long n = (long)get_group_id(1) * 16 + row;
  if (n >= rows || k >= K) return;
  const global uchar* unit = panels + panels_offset +
                             ((long)get_group_id(1) * (K / UNIT_COLUMNS) + k / UNIT_COLUMNS) * UNIT;
  const int j = k % UNIT_COLUMNS / 32;
  const int h = k % 32 / 16;
  uint words[8];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const float4 v = panel_values(unit, j, h, q, row);
    words[2 * q] = bf16_of(v.x) | bf16_of(v.y) << 16;
    words[2 * q + 1] = bf16_of(v.z) | bf16_of(v.w) << 16;
  }
  global uint4* to = (global uint4*)(out + out_offset + n * K + k);
  to[0] = (uint4)(words[0], words[1], words[2], words[3]);
  to[1] = (uint4)(words[4], words[5], words[6], words[7]);
}
#endif
