// What one_row_mma.cl has to know of each format. A warp multiplies a piece, PIECE columns of 16
// weight rows, at a time: work-item (g, c) = (lane / 4, lane % 4) loads two units of 16 bytes of
// codes of rows g and g + 8. CHAINS times it makes eight pairs of f16 out of each row's units,
// which four mma take, and applies the weights' scales to their sums.
//
// An mma adds over the four work-items of a row, whose codes belong to two blocks of one scale
// each: c = 0, 1 have the first, c = 2, 3 the second. So x has six columns: its three parts (see
// stage_x) with zeros for the second block, and with zeros for the first. Work-item c gets sums of
// block c / 2, and the scales that it needs are of that block alone.
//
// Codes become f16 exactly, by masks where they can be subnormal numbers: FACTOR times the sums is
// what counts.
#if NV_COMPUTE >= 80 && (WTYPE == WTYPE_F8 || WTYPE == WTYPE_Q8_0 || WTYPE == WTYPE_Q4_0 || \
                         WTYPE == WTYPE_MXFP4 || WTYPE == WTYPE_Q4_K)
#define ONE_ROW_MMA 1

#define BYTE_CODES (WTYPE == WTYPE_F8 || WTYPE == WTYPE_Q8_0)
#define HALF_UNITS (WTYPE == WTYPE_Q4_0 || WTYPE == WTYPE_MXFP4)  // blocks of 16 bytes: 8 and 8
#define HAS_MINIMUM (WTYPE == WTYPE_Q4_0 || WTYPE == WTYPE_Q4_K)
#if BYTE_CODES
#define PIECE 128
#define CHAINS 2
#else
#define PIECE 256
#define CHAINS 4
#endif
// Bytes of side data for a row of a piece.
#if WTYPE == WTYPE_F8
#define PIECE_SIDE 4
#elif WTYPE == WTYPE_Q4_0 || WTYPE == WTYPE_Q4_K
#define PIECE_SIDE 16
#else
#define PIECE_SIDE 8
#endif
// What x is multiplied by in a run of 256 columns beyond its power of two.
#if HAS_MINIMUM
#define FACTOR_EXPONENT 24
#elif WTYPE == WTYPE_MXFP4
#define FACTOR_EXPONENT 14
#elif WTYPE == WTYPE_F8 && NV_COMPUTE < 89
#define FACTOR_EXPONENT 8
#else
#define FACTOR_EXPONENT 0
#endif
// Q4_0's upper half of a block is read 16 times too large.
#define UPPER_SIXTEENTH (WTYPE == WTYPE_Q4_0)
// Masks take codes 0 and 2, 1 and 3 of each four for a pair.
#define CROSSED_PAIRS HAS_MINIMUM

// Where this work-item's codes and side data of rows g and g + 8 are.
typedef struct {
  const global uchar* codes[2];
  const global uchar* side[2];
} place_t;

INLINE int lane_bytes(int c) { return c * (HALF_UNITS ? 8 : 16); }

INLINE void load_codes(uint4* codes, const place_t* at, const int j, int on) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const global uchar* const from = at->codes[r] + 64 * j;
#if HALF_UNITS
    load8_once(codes + 2 * j + r, 0, from, on);
    load8_once(codes + 2 * j + r, 1, from + 32, on);
#else
    load16_once(codes + 2 * j + r, from, on);
#endif
  }
}

INLINE void load_side(uint4* side, const place_t* at, int on) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#if PIECE_SIDE == 4
    load4_if(side + r, at->side[r], on);
#elif PIECE_SIDE == 8
    load8_if(side + r, 0, at->side[r], on);
#else
    load16_if(side + r, at->side[r], on);
#endif
  }
}

INLINE uint word_at(uint4 v, const int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Of chain `chain`: where x lies for c = 0 of block 0, in 16 bytes from the piece's first, where
// for (c), and the distance of the two 16 bytes.
INLINE int chain_place(const int chain) {
#if BYTE_CODES
  return 8 * chain;
#elif HALF_UNITS
  return 8 * chain;
#else
  return 16 * (chain / 2) + 4 * (chain % 2);
#endif
}
INLINE int lane_place(int c) {
#if BYTE_CODES
  return 2 * c;
#elif HALF_UNITS
  return c / 2 * 4 + c % 2;
#else
  return c / 2 * 8 + c % 2 * 2;
#endif
}
#define SECOND_PLACE (HALF_UNITS ? 2 : 1)

// Four codes of a word at `low` and four at `high` of out, or (BYTE_CODES, Q4_K) four at low.
INLINE void pairs_of_word(uint* out, uint w, const int upper) {
#if WTYPE == WTYPE_F8 && NV_COMPUTE >= 89
  const uint2 pairs = f16_of_e4m3(w);
  out[0] = pairs.x;
  out[1] = pairs.y;
#elif WTYPE == WTYPE_F8
  const uint low = pick_bytes(w, 0, 0x1404);
  const uint high = pick_bytes(w, 0, 0x3424);
  out[0] = (low & 0x80008000u) | (low >> 1 & 0x3f803f80u);
  out[1] = (high & 0x80008000u) | (high >> 1 & 0x3f803f80u);
#elif WTYPE == WTYPE_Q8_0   // 1024 + 128 + code, less 1152
  const uint lifted = w ^ 0x80808080u;
  out[0] = f16_difference(pick_bytes(lifted, 0x64646464u, 0x4140), 0x64806480u);
  out[1] = f16_difference(pick_bytes(lifted, 0x64646464u, 0x4342), 0x64806480u);
#elif WTYPE == WTYPE_MXFP4  // the upper bytes of f16 2^-14 times as large
  const uint bytes = upper ? (w & 0x80808080u) | (w >> 3 & 0x0e0e0e0eu)
                           : (w << 4 & 0x80808080u) | (w << 1 & 0x0e0e0e0eu);
  out[0] = pick_bytes(bytes, 0, 0x1404);
  out[1] = pick_bytes(bytes, 0, 0x3424);
#else
  const uint mask = upper ? 0x00f000f0u : 0x000f000fu;
  out[0] = w & mask;
  out[1] = w >> 8 & mask;
#endif
}

// The eight pairs of a row for a chain; `unit` is unit_of_chain's.
INLINE int unit_of_chain(const int chain) { return BYTE_CODES ? chain : chain / 2; }
INLINE void pairs_of_chain(uint* out, uint4 unit, const int chain) {
#if HALF_UNITS
  const uint first = chain % 2 == 0 ? unit.x : unit.z;
  const uint second = chain % 2 == 0 ? unit.y : unit.w;
  pairs_of_word(out, first, 0);
  pairs_of_word(out + 2, second, 0);
  pairs_of_word(out + 4, first, 1);
  pairs_of_word(out + 6, second, 1);
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs_of_word(out + 2 * i, word_at(unit, i), chain % 2);
#endif
}

// A row's scales of a piece, ready to be applied.
typedef struct {
#if WTYPE == WTYPE_Q4_K
  uint runs[2];  // early and late: two scales and two minima in bytes
  float d, least;
#elif WTYPE == WTYPE_F8
  float scale;
#else
  uint word[PIECE_SIDE / 4];
#endif
} scales_t;

INLINE float f32_of_half_of(uint word, int late) {
  return f32_of_low_f16(late ? word >> 16 : word);
}

// factor: of the piece's columns of x. Minima count once, in even c.
INLINE void read_scales(scales_t* s, uint4 side, float factor, int c) {
#if WTYPE == WTYPE_Q4_K
  const uint selector = c < 2 ? 0x5410u : 0x7632u;
  const uint codes = pick_bytes(side.y, side.z, selector);
  const uint low = pick_bytes(side.w, side.w >> 4, selector);
  s->runs[0] = codes & 0x3f3f3f3fu;
  s->runs[1] = (low & 0x0f0f0f0fu) | (codes >> 2 & 0x30303030u);
  s->d = f32_of_low_f16(side.x) * factor;
  s->least = c % 2 == 0 ? -f32_of_high_f16(side.x) : 0.0f;
#elif WTYPE == WTYPE_F8
  s->scale = as_float(side.x) * factor;
#else
#pragma unroll
  for (int i = 0; i < PIECE_SIDE / 4; ++i) s->word[i] = word_at(side, i);
#endif
}

// d times byte i of `codes`, exactly, for d of 11 bits.
INLINE float scaled_byte(float d, uint codes, const int i) {
  return fma(d, as_float(pick_bytes(codes, 0x4b000000u, 0x7440u | i)), -d * 0x1p23f);
}

// total += what the sums of a chain are worth; sum_of_x is that of the block's 32 columns.
INLINE float add_scaled(float total, float sum, const scales_t* s, const int chain, float factor,
                        float sum_of_x, int c) {
#if WTYPE == WTYPE_Q4_K
  const uint codes = s->runs[chain / 2];
  const float d = chain % 2 == 0 ? s->d : s->d * 0.0625f;
  total = fma(scaled_byte(s->least, codes, 2 + chain % 2), sum_of_x, total);
  return fma(scaled_byte(d, codes, chain % 2), sum, total);
#elif WTYPE == WTYPE_F8
  return fma(s->scale, sum, total);
#elif WTYPE == WTYPE_MXFP4
  const uint first = chain % 2 == 0 ? 0x0444u : 0x2444u;
  const uint scale = pick_bytes(s->word[chain / 2], 0, first | (uint)(c / 2) << 12);
  return fma(as_float(max(scale >> 1, 0x00400000u)), sum * factor, total);
#elif WTYPE == WTYPE_Q8_0
  return fma(f32_of_half_of(s->word[chain], c / 2), sum * factor, total);
#else
  const float eight = c % 2 == 0 ? -8.0f : 0.0f;
  return fma(f32_of_half_of(s->word[chain], c / 2), fma(sum, factor, eight * sum_of_x), total);
#endif
}

#endif
