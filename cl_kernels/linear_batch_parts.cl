// y[t, n] (+)= sum_k x[t, k] w[n, k] and its company as in linear.cl (one head, no norm) for a
// batch of some rows, between those of few_rows.cl, whose sums cost arithmetic per row, and those
// of gemm.cl, whose tiles are for many. The weights are read once, straight into registers, in the
// order in which mma.m16n8k16 wants its 16-row operand; x is the operand with 8 columns, rounded
// to bf16. Needs NV_COMPUTE >= 80.
//
//   linear_batch_<TILES>x<EIGHTS>   a warp has TILES tiles of 16 rows of w, and 8 EIGHTS rows of x
//       global (ceil(T / (8 EIGHTS)) (ceil(N / R) [+ ceil(N2 / R)]) 256)    local (256, 1, 1)
//       R = 128 TILES / ksplit rows of weights, or half as many outputs of SwiGLU
//
// A product may take k in any order that both operands share. So a work-item loads 16 bytes of
// codes of a row at a time, a unit, and the values of a unit are those that its place in the
// fragments needs, some products long: work-item (g, c) = (lane / 4, lane % 4) of a warp has units
// c of rows g and g + 8 of each tile. What it needs of x, the same columns of row g, lies in local
// memory lane after lane.
//   RUN       columns that a unit has beside each other
//   PARTS     such runs of a unit, PART columns apart
//   STEP      columns of a row that four units cover
#if NV_COMPUTE >= 80

#if WTYPE <= WTYPE_F16
#define RUN 8
#else
#define RUN 16
#endif
#if WTYPE <= WTYPE_Q8_0
#define PARTS 1
#else
#define PARTS 2
#endif
#if WTYPE == WTYPE_Q6_K
#define PART 64
#elif KQUANT_PAIRS
#define PART 32
#else
#define PART 16
#endif
#define STEP (4 * RUN * PARTS)
// Eighths of columns of x in local memory at a time, twice: 16 KiB each.
#define CHUNK_EIGHTHS 1024

typedef struct {
#if RUN == 8
  uint4 codes;
#if WTYPE == WTYPE_F32
  uint4 more;
#endif
#else
  run16_t run;
#if WTYPE == WTYPE_Q6_K
  uint second_scale;
#endif
#endif
} unit_t;

INLINE int unit_column(int step, int c) {
#if KQUANT_PAIRS
  return step * STEP + c / 2 * 64 + c % 2 * 16;
#elif PART == 16 && PARTS == 2
  return step * STEP + c * 32;
#else
  return step * STEP + c * RUN;
#endif
}

// Where in local memory, in 16 bytes, eight columns of x of row 0 lie: by step, part, half of the
// run and the row's work-item.
INLINE int eighth_place(int eighth) {
#if KQUANT_PAIRS
  const int e = eighth % 16;
  return ((eighth / 16 * 2 + e / 4 % 2) * 2 + e % 2) * 32 + e / 8 * 2 + e / 2 % 2;
#elif WTYPE == WTYPE_Q6_K
  return (eighth / 8 * 2 + eighth % 2) * 32 + eighth / 2 % 4;
#elif PARTS == 2
  return (eighth / 16 * 4 + eighth % 4) * 32 + eighth / 4 % 4;
#elif RUN == 16
  return (eighth / 8 * 2 + eighth % 2) * 32 + eighth / 2 % 4;
#else
  return eighth / 4 * 32 + eighth % 4;
#endif
}

// Beyond K it is the first unit, which meets zeros of x: without a branch, so that the compiler may
// mix a tile's loads with the products of another.
INLINE unit_t load_batch_unit(weight_row_t row, int column, int K) {
  const int k = column < K ? column : 0;
  unit_t unit;
#if RUN == 8
  const int bytes = WTYPE == WTYPE_F32 ? 4 : 2;
  unit.codes = load16(row.codes + k * bytes);
#if WTYPE == WTYPE_F32
  unit.more = load16(row.codes + k * bytes + 16);
#endif
#else
  unit.run = fetch16(row, k);
#if WTYPE == WTYPE_Q6_K
  unit.second_scale = row.side0[k / 16 + PART / 16];
#endif
#endif
  return unit;
}

// No load passes this: left alone the compiler moves the loads to the end of a step, just before
// they are needed.
INLINE void keep_loads_here(void) { asm volatile("bar.warp.sync 0xffffffff;" : : : "memory"); }

#if KQUANT_PAIRS
// As kquant_pair, without a branch.
INLINE float2 unit_pair(uint4 pairs, int k) {
  const int shift = k / 32 % 4 * 8;
  const uint late = 0u - (uint)(k / 128 % 2);
  const uint low = pairs.y >> shift;
  const uint middle = pairs.z >> shift;
  const uint high = pairs.w >> shift;
  const uint scale = (low & 63 & ~late) | (((high & 15) | (low >> 2 & 48)) & late);
  const uint least = (middle & 63 & ~late) | (((high >> 4 & 15) | (middle >> 2 & 48)) & late);
  return (float2)(f32_of_f16_bits(pairs.x) * (float)scale,
                  f32_of_f16_bits(pairs.x >> 16) * (float)least);
}
#endif

// Part `part` of the unit at column k, as pairs of bf16.
INLINE void decode_unit(unit_t unit, int k, const int part, uint* out) {
#if WTYPE == WTYPE_BF16
  out[0] = unit.codes.x;
  out[1] = unit.codes.y;
  out[2] = unit.codes.z;
  out[3] = unit.codes.w;
#elif WTYPE == WTYPE_F32
  out[0] = bf16_pair(as_float(unit.codes.x), as_float(unit.codes.y));
  out[1] = bf16_pair(as_float(unit.codes.z), as_float(unit.codes.w));
  out[2] = bf16_pair(as_float(unit.more.x), as_float(unit.more.y));
  out[3] = bf16_pair(as_float(unit.more.z), as_float(unit.more.w));
#elif WTYPE == WTYPE_F16
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint two = word4(unit.codes, i);
    out[i] = bf16_pair(f32_of_f16_bits(two), f32_of_f16_bits(two >> 16));
  }
#elif KQUANT_PAIRS
  const float2 pair = unit_pair(unit.run.pairs, k + part * PART);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint codes = word4(unit.run.codes, i) >> 4 * part & 0x0f0f0f0fu;
#if WTYPE == WTYPE_Q5_K
    codes |= (word4(unit.run.more[0], i) >> ((k + part * PART) / 32 % 8) & 0x01010101u) << 4;
#endif
    const uint2 two = affine4(codes, pair.x, -pair.y);
    out[2 * i] = two.x;
    out[2 * i + 1] = two.y;
  }
#else
#if WTYPE == WTYPE_Q6_K
  if (part == 1) unit.run.side0 = unit.second_scale;
#endif
  decode16(unit.run, k + part * PART, out);
#endif
}

typedef struct {
  const global float* x;
  long stride;
  int aligned, rows, K;
} batch_x_t;

// Eighths of x of a chunk that a work-item takes to local memory.
#define X_EIGHTHS (CHUNK_EIGHTHS / 256)

#endif  // NV_COMPUTE >= 80
