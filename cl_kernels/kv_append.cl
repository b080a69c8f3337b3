// kv[slots[t] * width + i] = x[t, i]      i < width, t < T with slots[t] >= 0
//   x : f32, rows x_stride apart     kv : KVTYPE     slots : i32 [T]
// bf16 and f16 round to nearest even; f16 saturates at its largest value, 65504.
//   kv_append  global (ceil(width / 64) * 64, T)   local (64, 1)
kernel __attribute__((reqd_work_group_size(64, 1, 1))) void kv_append(
    const global float* x, long x_offset, long x_stride, global uchar* kv, long width,
    const global int* slots, long slots_offset) {
  const long i = get_global_id(0);
  const long t = get_global_id(1);
  const int slot = slots[slots_offset + t];
  if (i >= width || slot < 0) return;
  const float value = x[x_offset + t * x_stride + i];
  const long at = (long)slot * width + i;
#if KVTYPE == KVTYPE_F32
  ((global float*)kv)[at] = value;
#elif KVTYPE == KVTYPE_F16
  const float bounded = isnan(value) ? value : clamp(value, -65504.0f, 65504.0f);
  vstore_half_rte(bounded, at, (global half*)kv);
#else
  const uint u = as_uint(value);
  const uint rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  ((global ushort*)kv)[at] = (ushort)(isnan(value) ? (u >> 16) | 0x40u : rounded);
#endif
}
