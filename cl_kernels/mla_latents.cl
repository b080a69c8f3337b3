// latents[j - first, :R] = the latent of token j of one sequence
// rope[j - first, :d] = its roped key      j in [first, first + groups)
// What MLA's expanded form (mla_expanded.cl) makes keys and values of. Token j lies in slot
// tables[j / 64] * 64 + j % 64 of kv, a row as in mla_cache.cl.
//   latents : f32 [.., R]      rope : f32 [.., d], or bf16 where bf16_rope
//   global (GROUP, keys, 1)    local (GROUP, 1, 1)
kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void mla_latents(
    const global uchar* kv, const global int* tables, long tables_offset, int first, int R, int d,
    global float* latents, long latents_offset, global float* rope, long rope_offset,
    int bf16_rope) {
  const int lid = (int)get_local_id(0);
  const long row = get_group_id(1);
  const int j = first + (int)row;
  const long slot = (long)tables[tables_offset + j / BLOCK] * BLOCK + j % BLOCK;
  const long bytes = token_bytes(R, d);
  const global uchar* const token = kv + slot * bytes;
  latents += latents_offset + row * R;
  const int whole = R / 8 * 8;
  for (int i = lid * 8; i < whole; i += GROUP * 8) {
    vstore8(kv8(token, i, R, bytes % 16 == 0), 0, latents + i);
  }
  for (int i = whole + lid; i < R; i += GROUP) latents[i] = kv1(token, i, R);
  rope += rope_offset;
  for (int i = lid; i < d; i += GROUP) {
    const float value = kv1(token, R + i, R);
    if (bf16_rope) {
      ((global ushort*)rope)[row * d + i] = bf16_of(value);
    } else {
      rope[row * d + i] = value;
    }
  }
}
