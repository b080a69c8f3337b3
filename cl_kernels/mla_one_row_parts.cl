// What mla_one_row.cl is made of: its shape and arguments, sums of warps, and a warp's products with
// sixteen rows of kv_b.
#define ROW_R 512
#define ROW_D 64
#define ROW_HEAD 128  // nope and dv
#define ROW_ITEMS 256
#define ROW_WARPS 8
#define ROW_LANES 32
#define ROW_KEYS 4  // of a warp at a time
#define ROW_SPLITS 8
#define TILE_ROWS 16  // weight rows of a warp
#define ROW_TOKEN_BYTES (2 * (ROW_R + ROW_D))
#define KEY_BLOCK 64

// As in mla_one_row.cpp.
typedef struct {
  long q_offset, z_offset, norm_offset, cos_sin_offset;
  long slots_offset, tables_offset, table_start_offset, n_keys_offset;
  ulong w_offset, scale_offset;
  long parts_offset, lse_offset, out_offset;
  int H, append;
  float scale, eps;
} mla_row_t;

#define ROW_ARGS                                                                                \
  const global float *q, const global float *z, const global float *norm_w,                      \
      const global float *cos_sin, const global int *batch, global uchar *kv, const global uchar *w, \
      global float *parts, global float *lse, global float *out, volatile global int *arrived,   \
      mla_row_t a
#define ROW_PASS q, z, norm_w, cos_sin, batch, kv, w, parts, lse, out, arrived, &a

// Of a work-group, in local memory.
typedef struct {
  float part[ROW_HEAD * (ROW_LANES + 1)];  // by warps or rows
  float key[ROW_R + ROW_D];                // the head's q, its query, then the merged values
  float largest[ROW_WARPS], total[ROW_WARPS];
  float append[APPEND_ROOM(ROW_ITEMS)];
  int last;
#if NV_COMPUTE < 70
  float4 lanes[ROW_ITEMS];
#endif
} mla_room_t;

// Sums over the items of a warp, in each of them.
INLINE float4 warp_sums(float4 v, local mla_room_t* room) {
#if NV_COMPUTE >= 70
#pragma unroll
  for (int mask = ROW_LANES / 2; mask > 0; mask /= 2) {
    v += (float4)(from_lane(v.x, mask), from_lane(v.y, mask), from_lane(v.z, mask),
                  from_lane(v.w, mask));
  }
  return v;
#else
  const int lid = (int)get_local_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);
  room->lanes[lid] = v;
  barrier(CLK_LOCAL_MEM_FENCE);
  float4 sum = (float4)(0.0f);
  for (int i = 0; i < ROW_LANES; ++i) sum += room->lanes[lid / ROW_LANES * ROW_LANES + i];
  return sum;
#endif
}

// A row of R values in local memory, and in parts, lies in the order in which a warp's items meet no
// bank twice: four values of every item, then the next four.
INLINE void put_row(local float* row, float8 low, float8 high, int lane) {
  local float4* const to = (local float4*)row + lane;
  to[0] = low.lo;
  to[ROW_LANES] = low.hi;
  to[2 * ROW_LANES] = high.lo;
  to[3 * ROW_LANES] = high.hi;
}
INLINE float16 get_row(const local float* row, int lane) {
  const local float4* const from = (const local float4*)row + lane;
  return (float16)(from[0], from[ROW_LANES], from[2 * ROW_LANES], from[3 * ROW_LANES]);
}

// ---- weights: a warp's 16 rows, of which an item has the columns [8 lane, 8 lane + 8) and 256 more

// Of 8 weights as they lie, and the factor that they share.
#if WTYPE == WTYPE_F8
typedef uint2 row_codes_t;
#else
typedef uint4 row_codes_t;
#endif

INLINE row_codes_t row_codes(matrix_t m, long n, int k) {
  row_codes_t v;
  const global uchar* const from = m.data + (n * ROW_R + k) * WBYTES;
#if NV_COMPUTE >= 70 && WTYPE == WTYPE_F8
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
#elif NV_COMPUTE >= 70
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
#else
  v = *(const global row_codes_t*)from;
#endif
  return v;
}

INLINE float8 row_values(row_codes_t v) {
#if WTYPE == WTYPE_F8 && NV_COMPUTE >= 89
  const uint2 first = f16_of_e4m3(v.x);
  const uint2 second = f16_of_e4m3(v.y);
  return (float8)(f32_of_low_f16(first.x), f32_of_high_f16(first.x), f32_of_low_f16(first.y),
                  f32_of_high_f16(first.y), f32_of_low_f16(second.x), f32_of_high_f16(second.x),
                  f32_of_low_f16(second.y), f32_of_high_f16(second.y));
#elif WTYPE == WTYPE_F8
  return f32_of_f8(convert_uint8(as_uchar8(v)));
#elif WTYPE == WTYPE_BF16
  return f32_of_bf16(convert_uint8(as_ushort8(v)));
#else
  return f32_of_f16(convert_uint8(as_ushort8(v)));
#endif
}

#define TILE_UNITS (2 * TILE_ROWS)
// So many units are on their way at once: 64 registers.
#if WTYPE == WTYPE_F8
#define TILE_AHEAD TILE_UNITS
#else
#define TILE_AHEAD (TILE_UNITS / 2)
#endif

INLINE void load_tile(row_codes_t* codes, matrix_t m, long n0, int lane, const int unit0) {
#pragma unroll
  for (int i = 0; i < TILE_AHEAD; ++i) {
    const int unit = unit0 + i;
    codes[i] = row_codes(m, n0 + unit / 2, unit % 2 * (ROW_R / 2) + lane * 8);
  }
}

// The factor of the columns from k on, which rows [n0, n0 + 16) share.
INLINE float row_scale(matrix_t m, long n0, int k) {
#if WTYPE == WTYPE_F8
  return scale_at(m, n0, k);
#else
  return 1.0f;
#endif
}

// room->part[warp][r] = sum over the warp's 16 rows n of x[n] W_UK[n, r]; x in local memory.
INLINE void query_part(local float* part, row_codes_t* codes, matrix_t m, long n0,
                       const local float* x, int lane, int warp) {
  float8 low = (float8)(0.0f);
  float8 high = (float8)(0.0f);
#pragma unroll
  for (int unit0 = 0; unit0 < TILE_UNITS; unit0 += TILE_AHEAD) {
    if (unit0 > 0) load_tile(codes, m, n0, lane, unit0);
#pragma unroll
    for (int i = 0; i < TILE_AHEAD; i += 2) {
      const float8 by = (float8)(x[(unit0 + i) / 2]);
      low = fma(row_values(codes[i]), by, low);
      high = fma(row_values(codes[i + 1]), by, high);
    }
  }
  low *= row_scale(m, n0, lane * 8);
  high *= row_scale(m, n0, ROW_R / 2 + lane * 8);
  put_row(part + warp * ROW_R, low, high, lane);
}

// part[row][lane] = lanes' parts of sum_r u[r] W_UV[n, r] of the warp's 16 rows.
INLINE void output_part(local float* part, row_codes_t* codes, matrix_t m, long n0, float8 low,
                        float8 high, int lane, int warp) {
  low *= row_scale(m, n0, lane * 8);
  high *= row_scale(m, n0, ROW_R / 2 + lane * 8);
#pragma unroll
  for (int unit0 = 0; unit0 < TILE_UNITS; unit0 += TILE_AHEAD) {
    if (unit0 > 0) load_tile(codes, m, n0, lane, unit0);
#pragma unroll
    for (int i = 0; i < TILE_AHEAD; i += 2) {
      const int row = warp * TILE_ROWS + (unit0 + i) / 2;
      part[row * (ROW_LANES + 1) + lane] =
          dot8(row_values(codes[i + 1]), high, dot8(row_values(codes[i]), low, 0.0f));
    }
  }
}
