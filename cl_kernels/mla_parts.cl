// What the forms on matrix units share: mla_mma.cl, mla_wgmma.cl. R = 512 and d = 64.
//
// 16 keys are a stage in local memory: [9 units of 64 values][16 keys][128 bytes], the 16-byte
// parts p of a key's 128 bytes at p ^ (key % 8), so that ldmatrix meets no bank twice and wgmma
// finds its 128-byte swizzle. They come by cp.async; f8 arrives in two raw stages and is decoded
// into one.
#if NV_COMPUTE >= 89 || (NV_COMPUTE >= 80 && KVTYPE != KVTYPE_F8)
#if KVTYPE != KVTYPE_F32
#define KEYS 16
#define UNITS_BYTES 2048  // 64 values of 16 keys
#define STAGE_BYTES (9 * UNITS_BYTES)
#define ROW_BYTES 1152  // of a key in the cache
#define RAW_ROW_BYTES 656
#define RAW_BYTES (KEYS * RAW_ROW_BYTES)
#if KVTYPE == KVTYPE_F8
#define TILES_BYTES (STAGE_BYTES + 2 * RAW_BYTES)
#else
#define TILES_BYTES (2 * STAGE_BYTES)
#endif
#define MAILBOX 1024  // bytes of a warp

// Pointers to local memory are addresses of the shared state space already.
INLINE uint shared_address(const local uchar* p) { return (uint)(ulong)p; }

// 16 bytes, or zeros where there is no key.
INLINE void copy16(uint to, const global uchar* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
INLINE void commit_copies(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
INLINE void wait_copies(void) { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

INLINE void named_barrier(int id, int items) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(items) : "memory");
}

// The same number, but the compiler cannot know: what is made of it is made again in every step
// instead of being kept, where registers are short.
INLINE int again(int v) {
  int same;
  asm volatile("mov.b32 %0, %1;" : "=r"(same) : "r"(v));
  return same;
}

// Two values in the operands' type, the first in the lower half.
INLINE uint pack(float first, float second) {
  uint both;
#if KVTYPE == KVTYPE_F16
  asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
#else
  asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
#endif
  return both;
}

INLINE int any_in_warp(int condition) {
  int any;
  asm volatile(
      "{ .reg .pred p, r; setp.ne.s32 p, %1, 0; vote.sync.any.pred r, p, 0xffffffff; selp.s32 %0, "
      "1, 0, r; }"
      : "=r"(any)
      : "r"(condition));
  return any;
}

INLINE void load_matrices(uint* b, uint address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}
INLINE void load_matrices_transposed(uint* b, uint address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}

INLINE void put4(uint to, const float* v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v[0]), "f"(v[1]),
               "f"(v[2]), "f"(v[3])
               : "memory");
}
INLINE void get4(float* v, uint from) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(from)
               : "memory");
}

INLINE void put1(uint to, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
}
INLINE float get1(uint from) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(from) : "memory");
  return v;
}

INLINE void put2(uint to, uint first, uint second) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(first), "r"(second) : "memory");
}

// Where 16 bytes of a key lie in a stage: 64 values of all 16 keys after another 64, swizzled.
INLINE uint unit_at(int key, int unit) {
  return unit / 8 * UNITS_BYTES + key * 128 + (unit % 8 ^ key % 8) * 16;
}

// Starts copying the keys j .. j + 16 of a block, zeros from `last` on: `items` items, of which
// this is `item`, share a key by sixteens or eights.
INLINE void fetch_keys(uint stage, const global uchar* kv, int block, int j, int last, int item,
                       const int items) {
  const int sharers = items / KEYS;
  const int key = item / sharers;
  const int unit = item % sharers;
  const int bytes = j + key < last ? 16 : 0;
  const long token = (long)block * BLOCK + j % BLOCK + key;
#if KVTYPE == KVTYPE_F8
  const global uchar* from = kv + token * RAW_ROW_BYTES + unit * 16;
  const uint to = stage + key * RAW_ROW_BYTES + unit * 16;
#pragma unroll
  for (int i = 0; i < 6; ++i) {
    if (unit + i * sharers < 41) copy16(to + i * sharers * 16, from + i * sharers * 16, bytes);
  }
#else
  const global uchar* from = kv + token * ROW_BYTES + unit * 16;
  const uint to = stage + unit_at(key, unit);
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    if (unit + i * sharers < 72)
      copy16(to + i * sharers / 8 * UNITS_BYTES, from + i * sharers * 16, bytes);
  }
#endif
}

#if KVTYPE == KVTYPE_F8
// Two codes in the lower 16 bits to bf16, scaled.
INLINE uint decode2(uint codes, float scale) {
  float first, second;
  asm volatile(
      "{ .reg .b16 c, l, h; .reg .b32 p; cvt.u16.u32 c, %2; cvt.rn.f16x2.e4m3x2 p, c; "
      "mov.b32 {l, h}, p; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
      : "=f"(first), "=f"(second)
      : "r"(codes));
  return pack(first * scale, second * scale);
}

// 16 codes of a raw key to bf16 in the stage, two units of it.
INLINE void decode_codes(uint stage, uint raw, int key, int unit) {
  float codes[4];
  const float scale = get1(raw + 512 + unit / 8 * 4);
  get4(codes, raw + unit * 16);
#pragma unroll
  for (int half_unit = 0; half_unit < 2; ++half_unit) {
    float out[4];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint four = as_uint(codes[half_unit * 2 + c]);
      out[2 * c] = as_float(decode2(four & 0xffffu, scale));
      out[2 * c + 1] = as_float(decode2(four >> 16, scale));
    }
    put4(stage + unit_at(key, 2 * unit + half_unit), out);
  }
}
// Eight values of the roped key, which is bf16 already.
INLINE void copy_roped(uint stage, uint raw, int key, int unit) {
  float rope[4];
  get4(rope, raw + 528 + unit * 16);
  put4(stage + unit_at(key, 64 + unit), rope);
}

// 16 raw keys to bf16 in the stage.
INLINE void decode_keys(uint stage, uint raw, const int items) {
  const int sharers = items / KEYS;
  const int key = (int)get_local_id(0) / sharers;
  const int unit0 = (int)get_local_id(0) % sharers;
  raw += key * RAW_ROW_BYTES;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (unit0 + i * sharers < 32) decode_codes(stage, raw, key, unit0 + i * sharers);
  }
  if (unit0 < 8) copy_roped(stage, raw, key, unit0);
}
#endif

// Every `every`-th k-step from `first` on of the queries of 16 slots, as the A operand. Slots from
// T H on are zero.
INLINE void load_queries(uint* a, const global float* q, long slot0, long slots, int first_step,
                         const int every) {
  const int lane = (int)get_local_id(0) % 32;
#pragma unroll
  for (int k = 0; k < 18; ++k) {
    if (k * every >= 36) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const long slot = slot0 + lane / 4 + i % 2 * 8;
      const int column = 16 * (first_step + every * k) + lane % 4 * 2 + i / 2 * 8;
      float first = 0.0f;
      float second = 0.0f;
      if (slot < slots) {
        first = q[slot * 576 + column];
        second = q[slot * 576 + column + 1];
      }
#if KVTYPE == KVTYPE_F16
      first = clamp(first, -65504.0f, 65504.0f);
      second = clamp(second, -65504.0f, 65504.0f);
#endif
      a[4 * k + i] = pack(first, second);
    }
  }
}

// For mla_wgmma.cl, q on 16 bytes. x[9][4]: of every run of 32 columns of a half of the k-steps, four
// of slots lane / 8 + 4 i of this warp's 16, zeros from `slots` on. The runs: the lower or upper 256
// columns, and half of the last 64.
INLINE void load_query_rows(float4* x, const global float* q, int upper, int slots) {
  const int lane = (int)get_local_id(0) % 32;
#pragma unroll
  for (int k = 0; k < 9; ++k) {
    const int column = (k < 8 ? upper * 256 + k * 32 : 512 + upper * 32) + lane % 8 * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int slot = lane / 8 + 4 * i;
      x[4 * k + i] = (float4)(0.0f);
      if (slot < slots) x[4 * k + i] = *(const global float4*)(q + slot * 576 + column);
    }
  }
}

// The A operand of these k-steps, by way of the warp's 1024 bytes at `mail`: rows of 64
// bytes, swizzled.
INLINE void pack_queries(uint* a, const float4* x, uint mail) {
  const int lane = (int)get_local_id(0) % 32;
  const int row = lane % 16;
  const uint from = mail + row * 64;
#pragma unroll
  for (int k = 0; k < 9; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float4 v = x[4 * k + i];
#if KVTYPE == KVTYPE_F16
      v = clamp(v, -65504.0f, 65504.0f);
#endif
      const int slot = lane / 8 + 4 * i;
      put2(mail + slot * 64 + (lane % 8 / 2 ^ slot / 2 % 4) * 16 + lane % 2 * 8, pack(v.x, v.y),
           pack(v.z, v.w));
    }
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
    load_matrices(a + 8 * k, from + (lane / 16 ^ row / 2 % 4) * 16);
    load_matrices(a + 8 * k + 4, from + ((2 + lane / 16) ^ row / 2 % 4) * 16);
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
  }
}

// The largest rise of a score over the running maximum at which the sums are left as they are:
// probabilities up to 245 harm nobody, and rescaling costs as much as a fourth of the products.
#define LAZY 5.5f

// State of the 8 slots whose probabilities this warp makes; lane / 4 is the slot.
typedef struct {
  float largest;
  float total;  // of this lane's keys
  int limit;    // keys of the slot's row
} softmax_t;

// From four scores of this lane to probabilities, two and two packed; returns what the sums must be
// multiplied by.
INLINE float make_probabilities(uint* p, float* s, softmax_t* state, int j, float scale, int lane) {
  float most = -INFINITY;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int key = j + lane % 4 * 2 + i % 2 + i / 2 * 8;
    s[i] = key < state->limit ? s[i] * scale : -INFINITY;
    most = fmax(most, s[i]);
  }
  most = fmax(most, from_lane(most, 1));
  most = fmax(most, from_lane(most, 2));
  float correction = 1.0f;
  if (most > state->largest + LAZY) {
    correction = native_exp2((state->largest - most) * M_LOG2E_F);
    state->largest = most;
  }
  const float base = state->largest == -INFINITY ? 0.0f : -state->largest * M_LOG2E_F;
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] = native_exp2(fma(s[i], M_LOG2E_F, base));
  state->total = fma(state->total, correction, (s[0] + s[1]) + (s[2] + s[3]));
  p[0] = pack(s[0], s[1]);
  p[1] = pack(s[2], s[3]);
  return correction;
}

// Where an item is.
typedef struct {
  const global uchar* kv;
  const global int* tables;
  long start;  // of the sequence in tables
  float scale;
  uint memory;  // stages
  uint mail;    // mailboxes
  global uchar* map;  // of mla_wgmma_boxes.cl: the tensor map
  int lid;
} place_t;

// The block of token j, or of the last there is.
INLINE int block_of(const place_t* at, int j, int last) {
  return at->tables[at->start + min(j, last - 1) / BLOCK];
}
#endif
#endif
