// s[h, j] = scale * q[t, h] . K_j
// parts[t, h, s, :] = sum_j softmax_j(s[h, j]) K_j[:R]      lse[t, h, s] = log sum_j exp(s[h, j])
// over the keys of run s: j in [s * run, min((s + 1) * run, n_keys[t])). MLA in its absorbed form
// (DeepSeek-V2 section 2.1): all heads share K, and V is its front. A run without keys has zeros
// and -inf.
//   q : f32 [T, H, R + d]      kv : rows as in mla_cache.cl, token j of row t in slot
//   tables[table_start[t] + j / 64] * 64 + j % 64      parts, lse : f32      run % 64 == 0
// Online softmax: after each block of 64 keys the running maximum and sum are corrected. A row's
// result depends on that row and on `run` alone. A launch may have fewer runs than a row has parts,
// `splits`: others fill the rest (a cache in several buffers).
//
//   mla_attention_item   for CPUs: a work-item per head, row and run.
//                        global (H, T, runs)   local (1, 1, 1)
//   mla_attention_group  for GPUs: a work-group per 8 heads, row and run. 64 keys x 4 parts of the
//                        row in the scores, 2 columns an item in the sum.
//                        global (ceil(H / 8) * 256, T, runs)   local (256, 1, 1)
//   mla_mma.cl has the forms for matrix units.
#define MLA_ARGS                                                                            \
  const global float *q, long q_offset, const global uchar *kv, const global int *tables,   \
      long tables_offset, const global int *table_start, long table_start_offset,           \
      const global int *n_keys, long n_keys_offset, global float *parts, long parts_offset, \
      global float *lse, long lse_offset, int T, int H, int R, int d, float scale, int run, \
      int splits

// Where one head's result of this work-group's row and run goes, in units of a part.
INLINE long part_of(int H, int h, int splits) {
  return ((long)get_group_id(1) * H + h) * splits + get_group_id(2);
}

kernel __attribute__((reqd_work_group_size(1, 1, 1))) void mla_attention_item(MLA_ARGS) {
  const int h = (int)get_group_id(0);
  const long t = get_group_id(1);
  const int first = (int)get_group_id(2) * run;
  const int last = min(first + run, n_keys[n_keys_offset + t]);
  const global int* table = tables + tables_offset + table_start[table_start_offset + t];
  const long bytes = token_bytes(R, d);
  const int dk = R + d;
  const int dk8 = dk / 8 * 8;
  const int dv8 = R / 8;
  q += q_offset + (t * H + h) * dk;
  const long part = part_of(H, h, splits);
  parts += parts_offset + part * R;

  float8 sum[MAX_R / 8 + 1];  // the last holds R % 8 values
  float score[BLOCK];
  float largest = -INFINITY;
  float total = 0.0f;
  for (int v = 0; v <= dv8; ++v) sum[v] = (float8)(0.0f);

  for (int j0 = first; j0 < last; j0 += BLOCK) {
    const global uchar* block = kv + (long)table[j0 / BLOCK] * BLOCK * bytes;
    const int count = min(BLOCK, last - j0);
    float block_largest = largest;
    for (int j = 0; j < count; ++j) {
      const global uchar* k = block + j * bytes;
      float8 products = (float8)(0.0f);
      for (int i = 0; i < dk8; i += 8) products = fma(vload8(0, q + i), kv8(k, i, R, 0), products);
      float s = sum8(products);
      for (int i = dk8; i < dk; ++i) s = fma(q[i], kv1(k, i, R), s);
      score[j] = s * scale;
      block_largest = fmax(block_largest, score[j]);
    }
    const float correction = exp(largest - block_largest);
    largest = block_largest;
    total *= correction;
    for (int v = 0; v <= dv8; ++v) sum[v] *= correction;
    for (int j = 0; j < count; ++j) {
      const global uchar* value = block + j * bytes;
      const float p = exp(score[j] - largest);
      total += p;
      for (int v = 0; v < dv8; ++v) sum[v] = fma((float8)(p), kv8(value, v * 8, R, 0), sum[v]);
      float* tail = (float*)(sum + dv8);
      for (int v = dv8 * 8; v < R; ++v) tail[v % 8] = fma(p, kv1(value, v, R), tail[v % 8]);
    }
  }
  const float factor = total > 0.0f ? 1.0f / total : 0.0f;
  for (int v = 0; v < dv8; ++v) vstore8(sum[v] * factor, v, parts);
  for (int v = dv8 * 8; v < R; ++v) parts[v] = ((const float*)(sum + dv8))[v % 8] * factor;
  lse[lse_offset + part] = largest + log(total);
}

#define HEADS 8
#define ITEMS 256
#define PARTS (ITEMS / BLOCK)    // of a row, in the scores
#define STEP 32                  // values of a row in local memory at a time
#define KEY_STRIDE (STEP + 4)    // 16-byte reads of neighbouring keys meet no bank twice
#define COLUMNS (MAX_R / ITEMS)
#define Q_STRIDE (MAX_R + MAX_D)

// 32 values of 64 keys to local memory, zero where there is no key or the row ends; 8 an item.
INLINE void load_keys(local float* tile, const global uchar* block, long bytes, int count, int d0,
                      int dk, int R) {
  const int lid = (int)get_local_id(0);
  const int j = lid / (STEP / 8);
  const int i = d0 + lid % (STEP / 8) * 8;
  const global uchar* k = block + j * bytes;
  float8 v = (float8)(0.0f);
  if (j < count && i + 8 <= dk) {
    v = kv8(k, i, R, bytes % 16 == 0);
  } else if (j < count && i < dk) {
    float tail[8];
    for (int n = 0; n < 8; ++n) tail[n] = i + n < dk ? kv1(k, i + n, R) : 0.0f;
    v = vload8(0, tail);
  }
  vstore8(v, 0, tile + j * KEY_STRIDE + i - d0);
}

// part[p][hh][j]: part p of the scores of 8 heads, unscaled.
INLINE void part_scores(local float* part, local float* tile, const local float* q_local,
                        const global uchar* block, long bytes, int count, int dk, int R) {
  const int lid = (int)get_local_id(0);
  const int j = lid % BLOCK;
  const int p = lid / BLOCK;
  float s[HEADS];
#pragma unroll
  for (int hh = 0; hh < HEADS; ++hh) s[hh] = 0.0f;
  for (int d0 = 0; d0 < dk; d0 += STEP) {
    barrier(CLK_LOCAL_MEM_FENCE);  // nobody reads the tile, or the last block's parts, any more
    load_keys(tile, block, bytes, count, d0, dk, R);
    barrier(CLK_LOCAL_MEM_FENCE);
    const local float4* k4 = (const local float4*)(tile + j * KEY_STRIDE + p * (STEP / PARTS));
#pragma unroll
    for (int i = 0; i < STEP / PARTS / 4; ++i) {
      const float4 k = k4[i];
#pragma unroll
      for (int hh = 0; hh < HEADS; ++hh) {
        const float4 a =
            *(const local float4*)(q_local + hh * Q_STRIDE + d0 + p * (STEP / PARTS) + 4 * i);
        s[hh] = fma(a.w, k.w, fma(a.z, k.z, fma(a.y, k.y, fma(a.x, k.x, s[hh]))));
      }
    }
  }
#pragma unroll
  for (int hh = 0; hh < HEADS; ++hh) part[(p * HEADS + hh) * BLOCK + j] = s[hh];
}

// score[hh][j] from its parts, and every head's largest score of the block.
INLINE void join_scores(local float* score, local float* part, local float* block_largest,
                        int count, float scale) {
  const int lid = (int)get_local_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = lid; i < HEADS * BLOCK; i += ITEMS) {
    float s = part[i];
    for (int p = 1; p < PARTS; ++p) s += part[p * HEADS * BLOCK + i];
    score[i] = i % BLOCK < count ? s * scale : -INFINITY;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid < HEADS) {
    float most = score[lid * BLOCK];
    for (int j = 1; j < BLOCK; ++j) most = fmax(most, score[lid * BLOCK + j]);
    block_largest[lid] = most;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
}

kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void mla_attention_group(MLA_ARGS) {
  local float q_local[HEADS * Q_STRIDE] __attribute__((aligned(16)));
  local float tile[BLOCK * KEY_STRIDE] __attribute__((aligned(16)));
  local float part[PARTS * HEADS * BLOCK];
  local float score[HEADS * BLOCK];
  local float block_largest[HEADS];
  const int lid = (int)get_local_id(0);
  const long t = get_group_id(1);
  const int h0 = (int)get_group_id(0) * HEADS;
  const int first = (int)get_group_id(2) * run;
  const int last = min(first + run, n_keys[n_keys_offset + t]);
  const global int* table = tables + tables_offset + table_start[table_start_offset + t];
  const long bytes = token_bytes(R, d);
  const int dk = R + d;
  for (int i = lid; i < HEADS * Q_STRIDE; i += ITEMS) {
    const int h = min(h0 + i / Q_STRIDE, H - 1);
    const int c = i % Q_STRIDE;
    q_local[i] = c < dk ? q[q_offset + (t * H + h) * dk + c] : 0.0f;
  }
  float sum[HEADS][COLUMNS];
  float largest[HEADS];
  float total[HEADS];
#pragma unroll
  for (int hh = 0; hh < HEADS; ++hh) {
    largest[hh] = -INFINITY;
    total[hh] = 0.0f;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sum[hh][c] = 0.0f;
  }
  for (int j0 = first; j0 < last; j0 += BLOCK) {
    const global uchar* block = kv + (long)table[j0 / BLOCK] * BLOCK * bytes;
    const int count = min(BLOCK, last - j0);
    part_scores(part, tile, q_local, block, bytes, count, dk, R);
    join_scores(score, part, block_largest, count, scale);
#pragma unroll
    for (int hh = 0; hh < HEADS; ++hh) {
      const float most = fmax(largest[hh], block_largest[hh]);
      const float correction = exp(largest[hh] - most);
      largest[hh] = most;
      total[hh] *= correction;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sum[hh][c] *= correction;
      if (lid < BLOCK) score[hh * BLOCK + lid] = exp(score[hh * BLOCK + lid] - most);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int j = 0; j < count; ++j) {
      float value[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const int v = c * ITEMS + lid;
        value[c] = v < R ? kv1(block + j * bytes, v, R) : 0.0f;
      }
#pragma unroll
      for (int hh = 0; hh < HEADS; ++hh) {
        const float p = score[hh * BLOCK + j];
        total[hh] += p;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sum[hh][c] = fma(p, value[c], sum[hh][c]);
      }
    }
  }
#pragma unroll
  for (int hh = 0; hh < HEADS; ++hh) {
    if (h0 + hh < H) {
      const long at = part_of(H, h0 + hh, splits);
      const float factor = total[hh] > 0.0f ? 1.0f / total[hh] : 0.0f;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const int v = c * ITEMS + lid;
        if (v < R) parts[parts_offset + at * R + v] = sum[hh][c] * factor;
      }
      if (lid == 0) lse[lse_offset + at] = largest[hh] + log(total[hh]);
    }
  }
}
