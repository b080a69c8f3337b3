// kv[slots[t]] = RMSNorm(z[t, :R]) | rope(z[t, R : R + d])      t < T with slots[t] >= 0; a token's
// row as in mla_cache.cl
//   z : f32, rows z_stride apart     norm_w : f32 [R]     cos_sin : f32 [T, d / 2, 2], interleaved
// Rounds to nearest even; f16 saturates at 65504. The scale of 128 codes of f8 is their largest
// magnitude over 448.
//   mla_append          global (GROUP, T)   local (GROUP, 1)
//   mla_query_* (mla_heads.cl) with a work-group more for each row
// The cache's type is an argument: it is a constant in one of them.
#define MAX_R 512

// PoCL 5 does not compile barriers in loops: none where a work-group has one item.
#if GROUP * TEAM * TEAMS == 1
#define APPEND_BARRIER()
#else
#define APPEND_BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#endif

// Nearest even, saturating at 448. NaN becomes the code's NaN.
INLINE uchar f8_of(float value) {
  const uint bits = as_uint(fmin(fabs(value), 448.0f));
  const uint normal = ((bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20) - (120u << 3);
  const uint small = (uint)rint(as_float(bits) * 0x1p9f);  // 8 is the smallest normal code
  const uint magnitude = bits < 0x3c800000u ? small : normal;
  return (uchar)((as_uint(value) >> 31 << 7) | (isnan(value) ? 0x7fu : magnitude));
}

// x / d to the nearest: a device may divide with an error of 2.5 units, which would move codes.
INLINE float exact_quotient(float x, float d) {
  const float q = x / d;
  return fma(fma(-q, d, x), 1.0f / d, q);
}

INLINE int bytes_of_token(int kv_type, int R, int d) {
  if (kv_type == KVTYPE_F8) return R + R / 32 + 2 * d;
  return (kv_type == KVTYPE_F32 ? 4 : 2) * (R + d);
}

INLINE void store_value(global uchar* token, int kv_type, int i, float value) {
  if (kv_type == KVTYPE_F32) {
    ((global float*)token)[i] = value;
  } else if (kv_type == KVTYPE_F16) {
    const float bounded = isnan(value) ? value : clamp(value, -65504.0f, 65504.0f);
    vstore_half_rte(bounded, i, (global half*)token);
  } else {
    ((global ushort*)token)[i] = (ushort)bf16_of(value);
  }
}

INLINE void store_roped(global uchar* token, int kv_type, int i, float value, int R) {
  if (kv_type == KVTYPE_F8) {
    ((global ushort*)(token + R + R / 32))[i] = (ushort)bf16_of(value);
  } else {
    store_value(token, kv_type, R + i, value);
  }
}

// Of a work-group of `items`, in local memory.
#define APPEND_ROOM(items) ((items) + MAX_R / 8 + MAX_R / 128)

// Codes and scales; `room` as in append_token.
INLINE void store_latent_f8(global uchar* token, const global float* z, const global float* w,
                            float factor, int R, local float* room, const int items) {
  local float* const largest = room + items;
  local float* const scale = largest + MAX_R / 8;
  const int lid = (int)get_local_id(0);
  for (int v = lid; v < R / 8; v += items) {
    const float8 size = fabs(vload8(v, w) * (vload8(v, z) * factor));
    const float4 a = fmax(size.lo, size.hi);
    const float2 b = fmax(a.lo, a.hi);
    largest[v] = fmax(b.x, b.y);
  }
  APPEND_BARRIER();
  for (int b = lid; b < R / 128; b += items) {
    float most = largest[16 * b];
    for (int v = 1; v < 16; ++v) most = fmax(most, largest[16 * b + v]);
    scale[b] = exact_quotient(most, 448.0f);
    ((global float*)(token + R))[b] = scale[b];
  }
  APPEND_BARRIER();
  for (int i = lid; i < R; i += items) {
    const float by = scale[i / 128];
    const float value = w[i] * (z[i] * factor);
    token[i] = f8_of(by > 0.0f ? exact_quotient(value, by) : 0.0f);
  }
}

// One row, z and cos_sin being at it; slot < 0: nowhere. room: APPEND_ROOM floats in local memory.
// All items go through all barriers, in rows without a slot as well: PoCL 3.1 spoils other memory
// where a work-group returns before them.
INLINE void append_token(const global float* z, const global float* norm_w,
                         const global float* cos_sin, global uchar* kv, int kv_type, int slot,
                         int R, int d, float eps, local float* room, const int items) {
  const int lid = (int)get_local_id(0);
  const int stored_R = slot < 0 ? 0 : R;
  const int stored_d = slot < 0 ? 0 : d;
  global uchar* const token = kv + (long)max(slot, 0) * bytes_of_token(kv_type, R, d);
  float sum = 0.0f;
  for (int i = lid; i < R; i += items) sum = fma(z[i], z[i], sum);
  room[lid] = sum;
  APPEND_BARRIER();
  for (int half_group = items / 2; half_group > 0; half_group /= 2) {
    if (lid < half_group) room[lid] += room[lid + half_group];
    APPEND_BARRIER();
  }
  const float factor = 1.0f / sqrt(room[0] / (float)R + eps);
  if (kv_type == KVTYPE_F8) {
    store_latent_f8(token, z, norm_w, factor, stored_R, room, items);
  } else {
    for (int i = lid; i < stored_R; i += items) {
      store_value(token, kv_type, i, norm_w[i] * (z[i] * factor));
    }
  }
  for (int i = lid; i < stored_d / 2; i += items) {
    const float a = z[R + 2 * i];
    const float b = z[R + 2 * i + 1];
    const float c = cos_sin[2 * i];
    const float s = cos_sin[2 * i + 1];
    store_roped(token, kv_type, 2 * i, a * c - b * s, R);
    store_roped(token, kv_type, 2 * i + 1, a * s + b * c, R);
  }
  APPEND_BARRIER();  // of the room
}

#ifdef KVTYPE
kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void mla_append(
    const global float* z, long z_offset, long z_stride, const global float* norm_w,
    long norm_w_offset, const global float* cos_sin, long cos_sin_offset, global uchar* kv,
    const global int* slots, long slots_offset, int R, int d, float eps) {
  local float room[APPEND_ROOM(GROUP)];
  const long t = get_group_id(1);
  append_token(z + z_offset + t * z_stride, norm_w + norm_w_offset, cos_sin + cos_sin_offset + t * d,
               kv, KVTYPE, slots[slots_offset + t], R, d, eps, room, GROUP);
}
#endif
