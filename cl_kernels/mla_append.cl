// kv[slots[t]] = RMSNorm(z[t, :R]) | rope(z[t, R : R + d])      t < T with slots[t] >= 0; a token's
// row as in mla_cache.cl
//   z : f32, rows z_stride apart     norm_w : f32 [R]     cos_sin : f32 [T, d / 2, 2], interleaved
// Rounds to nearest even; f16 saturates at 65504. The scale of 128 codes of f8 is their largest
// magnitude over 448.
//   mla_append  global (GROUP, T)   local (GROUP, 1)
#if KVTYPE == KVTYPE_F8
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

INLINE void store_roped(global uchar* token, int i, float value, int R) {
  ((global ushort*)(token + R + R / 32))[i] = bf16_of(value);
}

INLINE void store_latent(global uchar* token, const global float* z, const global float* w,
                         float factor, int R, local float* largest) {
  local float* scale = largest + MAX_R / 8;
  const int lid = (int)get_local_id(0);
  for (int v = lid; v < R / 8; v += GROUP) {
    const float8 size = fabs(vload8(v, w) * (vload8(v, z) * factor));
    const float4 a = fmax(size.lo, size.hi);
    const float2 b = fmax(a.lo, a.hi);
    largest[v] = fmax(b.x, b.y);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int b = lid; b < R / 128; b += GROUP) {
    float most = largest[16 * b];
    for (int v = 1; v < 16; ++v) most = fmax(most, largest[16 * b + v]);
    scale[b] = exact_quotient(most, 448.0f);
    ((global float*)(token + R))[b] = scale[b];
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = lid; i < R; i += GROUP) {
    const float by = scale[i / 128];
    const float value = w[i] * (z[i] * factor);
    token[i] = f8_of(by > 0.0f ? exact_quotient(value, by) : 0.0f);
  }
}
#else
INLINE void store_value(global uchar* token, int i, float value) {
#if KVTYPE == KVTYPE_F32
  ((global float*)token)[i] = value;
#elif KVTYPE == KVTYPE_F16
  const float bounded = isnan(value) ? value : clamp(value, -65504.0f, 65504.0f);
  vstore_half_rte(bounded, i, (global half*)token);
#else
  ((global ushort*)token)[i] = bf16_of(value);
#endif
}

INLINE void store_roped(global uchar* token, int i, float value, int R) {
  store_value(token, R + i, value);
}

INLINE void store_latent(global uchar* token, const global float* z, const global float* w,
                         float factor, int R, local float* unused) {
  for (int i = (int)get_local_id(0); i < R; i += GROUP) {
    store_value(token, i, w[i] * (z[i] * factor));
  }
}
#endif

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void mla_append(
    const global float* z, long z_offset, long z_stride, const global float* norm_w,
    long norm_w_offset, const global float* cos_sin, long cos_sin_offset, global uchar* kv,
    const global int* slots, long slots_offset, int R, int d, float eps) {
  local float partial[GROUP];
  local float blocks[MAX_R / 8 + MAX_R / 128];  // f8: magnitudes, scales
  const int lid = (int)get_local_id(0);
  const long t = get_group_id(1);
  z += z_offset + t * z_stride;
  norm_w += norm_w_offset;
  cos_sin += cos_sin_offset + t * d;
  const int slot = slots[slots_offset + t];
  // All items go through all barriers, in rows without a slot as well: PoCL 3.1 spoils other memory
  // where a work-group returns before them.
  const int stored_R = slot < 0 ? 0 : R;
  const int stored_d = slot < 0 ? 0 : d;
  global uchar* token = kv + (long)max(slot, 0) * token_bytes(R, d);

  float sum = 0.0f;
  for (int i = lid; i < R; i += GROUP) sum = fma(z[i], z[i], sum);
  partial[lid] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_group = GROUP / 2; half_group > 0; half_group /= 2) {
    if (lid < half_group) partial[lid] += partial[lid + half_group];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  store_latent(token, z, norm_w, 1.0f / sqrt(partial[0] / (float)R + eps), stored_R, blocks);
  for (int i = lid; i < stored_d / 2; i += GROUP) {
    const float a = z[R + 2 * i];
    const float b = z[R + 2 * i + 1];
    const float c = cos_sin[2 * i];
    const float s = cos_sin[2 * i + 1];
    store_roped(token, 2 * i, a * c - b * s, R);
    store_roped(token, 2 * i + 1, a * s + b * c, R);
  }
}
