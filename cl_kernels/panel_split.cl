// A matrix in a block format, out of the CPU's panels of 16 rows (cpu_kernels/panel.h) into the
// layout of devices (memory/split_layout.h), bit for bit what the file's blocks become there.
//   panels : ceil(rows / 16) panels      data, side0, side1 : byte offsets into out
// A work-item takes one block of a row: neighbours read neighbouring rows of a panel.
//   panels_to_split  global (K / UNIT_COLUMNS * 16, ceil(rows / 16))   local (16, 1)
// Compiled behind panels.cl, which has UNIT and UNIT_COLUMNS.
#ifdef UNIT
#define LOW 0x0f0f0f0fu
#define HIGH 0xf0f0f0f0u

// Word i of this row of an array of words that lies 16 rows side by side.
#define ROW_WORD(p, i) ((const global uint*)(p))[(i) * 16 + row]

#if WTYPE == WTYPE_Q4_K || WTYPE == WTYPE_Q5_K || WTYPE == WTYPE_Q6_K
// Word v and word v + 4 of 32 bytes whose low halves are run `a` and whose high halves run `b`.
INLINE void split_halves(const global uchar* a, const global uchar* b, global uint* to, int row) {
  for (int v = 0; v < 4; ++v) {
    const uint low = ROW_WORD(a, v);
    const uint high = ROW_WORD(b, v);
    to[v] = (low & LOW) | (high & LOW) << 4;
    to[v + 4] = (low >> 4 & LOW) | (high & HIGH);
  }
}
#endif

#if WTYPE == WTYPE_Q4_K || WTYPE == WTYPE_Q5_K
// Four halves side by side go to the low halves of four bytes.
INLINE uint spread_halves(uint halves) {
  const uint pairs = (halves | halves << 8) & 0x00ff00ffu;
  return (pairs | pairs << 4) & LOW;
}

// The 16 bytes d, dmin, scales[12] of a block.
INLINE void split_scales(const global uchar* unit, global uint* to, int row) {
  uint low[2] = {0, 0};
  for (int j = 0; j < 8; ++j) low[j / 4] |= (uint)unit[64 + j * 16 + row] << (j % 4 * 8);
  const uint high = ROW_WORD(unit + 192, 0);
  const uint first = spread_halves(high & 0xffffu);
  const uint last = spread_halves(high >> 16);
  const uint two = 0x03030303u;
  to[0] = ((const global ushort*)unit)[row] | (uint)((const global ushort*)unit)[16 + row] << 16;
  to[1] = (low[0] & LOW) | (first & two) << 4 | (last & two) << 6;
  to[2] = (low[0] >> 4 & LOW) | (first >> 2 & two) << 4 | (last >> 2 & two) << 6;
  to[3] = low[1];
}
#endif

#if WTYPE == WTYPE_Q5_K
// Byte c of 32 holds bit j of column c of run j.
INLINE void split_bits(const global uchar* runs, global uint* to, int row) {
  for (int b = 0; b < 8; ++b) {
    uint word = 0;
    for (int j = 0; j < 8; ++j) word |= (ROW_WORD(runs, j) >> b & 0x01010101u) << j;
    to[b] = word;
  }
}
#endif

kernel __attribute__((reqd_work_group_size(16, 1, 1))) void panels_to_split(
    const global uchar* panels, long panels_offset, global uchar* out, long data_offset,
    long side0_offset, long side1_offset, int rows, int K) {
  const int row = (int)get_local_id(0);
  const int blocks = K / UNIT_COLUMNS;
  const long n = (long)get_group_id(1) * 16 + row;
  if (n >= rows) return;
  const global uchar* unit =
      panels + panels_offset + ((long)get_group_id(1) * blocks + (long)get_group_id(0)) * UNIT;
  const long block = n * blocks + (long)get_group_id(0);
#if WTYPE == WTYPE_Q8_0
  global uint* data = (global uint*)(out + data_offset) + block * 8;
  for (int v = 0; v < 8; ++v) data[v] = ROW_WORD(unit + 32, v) ^ 0x80808080u;
  ((global ushort*)(out + side0_offset))[block] = ((const global ushort*)unit)[row];
#elif WTYPE == WTYPE_Q4_0
  global uint* data = (global uint*)(out + data_offset) + block * 4;
  for (int v = 0; v < 4; ++v) data[v] = ROW_WORD(unit + 32, v);
  ((global ushort*)(out + side0_offset))[block] = ((const global ushort*)unit)[row];
#elif WTYPE == WTYPE_Q5_0
  global uint* data = (global uint*)(out + data_offset) + block * 4;
  for (int v = 0; v < 4; ++v) data[v] = ROW_WORD(unit + 96, v);
  ((global ushort*)(out + side0_offset))[block] = ((const global ushort*)unit)[row];
  uint bits = 0;
  for (int b = 0; b < 8; ++b) {
    const uint four = ROW_WORD(unit + 32, 0) >> b & 0x01010101u;
    bits |= ((four | four >> 7 | four >> 14 | four >> 21) & 15u) << (4 * b);
  }
  ((global uint*)(out + side1_offset))[block] = bits;
#elif WTYPE == WTYPE_MXFP4
  global uint* data = (global uint*)(out + data_offset) + block * 4;
  for (int v = 0; v < 4; ++v) data[v] = ROW_WORD(unit + 16, v);
  (out + side0_offset)[block] = unit[row];
#elif WTYPE == WTYPE_Q4_K
  global uint* data = (global uint*)(out + data_offset) + block * 32;
  for (int g = 0; g < 4; ++g) {
    const global uchar* runs = unit + 256 + g * 512;
    split_halves(runs, runs + 256, data + g * 8, row);
  }
  split_scales(unit, (global uint*)(out + side0_offset) + block * 4, row);
#elif WTYPE == WTYPE_Q5_K
  global uint* data = (global uint*)(out + data_offset) + block * 40;
  for (int g = 0; g < 4; ++g) {
    const global uchar* runs = unit + 768 + g * 512;
    split_halves(runs, runs + 256, data + g * 8, row);
  }
  split_bits(unit + 256, data + 32, row);
  split_scales(unit, (global uint*)(out + side0_offset) + block * 4, row);
#else
  global uint* data = (global uint*)(out + data_offset) + block * 48;
  for (int h = 0; h < 2; ++h) {
    for (int p = 0; p < 2; ++p) {
      const global uchar* runs = unit + 1312 + (4 * h + p) * 256;
      split_halves(runs, runs + 512, data + h * 16 + p * 8, row);
    }
    for (int i = 0; i < 8; ++i) {  // byte c of 32 holds bits 4 and 5 of column c of four runs
      uint word = 0;
      for (int j = 0; j < 4; ++j) {
        const uint run = ROW_WORD(unit + 288 + (4 * h + j) * 128, i / 4);
        word |= (run >> (i % 4 * 2) & 0x03030303u) << (2 * j);
      }
      data[32 + h * 8 + i] = word;
    }
  }
  global uchar* scales = out + side0_offset + block * 16;
  for (int i = 0; i < 16; ++i) scales[i] = unit[32 + i * 16 + row];
  ((global ushort*)(out + side1_offset))[block] = ((const global ushort*)unit)[row];
#endif
}
#endif
