// In place, for row t, head h and pair i < d / 2:  (a, b) -> (a cos - b sin, a sin + b cos)
//   x : f32, rows and heads *_stride apart      cos_sin : f32 [T, d / 2, 2]
//   interleaved : (a, b) = x[2i], x[2i + 1]   (MLA)      else x[i], x[i + d/2]   (MHA)
//   rope_f32  global (ceil(heads * d / 2 / 64) * 64, T)   local (64, 1)
kernel __attribute__((reqd_work_group_size(64, 1, 1))) void rope_f32(
    global float* x, long x_offset, long row_stride, long head_stride, long heads, long d,
    const global float* cos_sin, long cos_sin_offset, int interleaved) {
  const long pairs = d / 2;
  const long i = get_global_id(0) % pairs;
  const long h = get_global_id(0) / pairs;
  const long t = get_global_id(1);
  if (h >= heads) return;
  global float* head = x + x_offset + t * row_stride + h * head_stride;
  global float* first = head + (interleaved ? 2 * i : i);
  global float* second = head + (interleaved ? 2 * i + 1 : i + pairs);
  const float c = cos_sin[cos_sin_offset + (t * pairs + i) * 2];
  const float s = cos_sin[cos_sin_offset + (t * pairs + i) * 2 + 1];
  const float a = *first;
  const float b = *second;
  *first = a * c - b * s;
  *second = a * s + b * c;
}
