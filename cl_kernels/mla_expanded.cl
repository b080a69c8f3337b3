// MLA in its expanded form (DeepSeek-V2 section 2.1.2 before the absorption), for many rows of one
// sequence: keys and values of every head are made of the latents, a run of keys at a time, and
// serve all rows.
//   s[t, h, j] = scale * (q[t, h, :nope] . K[j, h] + rope(q[t, h, nope:]) . rope[j])
//   out[t, h] = sum_j softmax_j(s[t, h, j]) V[j, h]      lse[t, h] = log sum_j exp(s[t, h, j])
// over the keys j < n_keys[t] of all runs so far: a run from `first` > 0 on is joined with the out
// and lse that the runs before left there. The scores are never stored.
//   q : f32, heads nope + d apart, rows q_stride      cos_sin : f32 [T, d / 2, 2], interleaved
//   expanded : [count, H, nope + dv], K then V        rope : [count, d]
//       of the keys [first, first + count); f32, in mla_expanded_mma.cl bf16
//   n_keys : i32 [T], of no row less than of the row before
//   out : f32, heads dv apart, rows out_stride        lse : f32 [T, H], natural logarithm
// A row's result depends on that row and on where runs end alone.
//
//   mla_expanded_item   for CPUs: a work-item per head and row.
//                       global (H, T, 1)   local (1, 1, 1)
//   mla_expanded_group  for GPUs: a work-group per head and 8 rows; in the scores an item has one
//                       of 64 keys and two rows, in the sums a column and four rows.
//                       global (H * 256, ceil(T / 8), 1)   local (256, 1, 1)
//   mla_expanded_mma.cl has the form for matrix units.
#define EXPANDED_ARGS                                                                           \
  const global float *q, long q_offset, long q_stride, const global float *cos_sin,             \
      long cos_sin_offset, const global float *expanded, long expanded_offset,                  \
      const global float *rope, long rope_offset, const global int *n_keys, long n_keys_offset, \
      global float *out, long out_offset, long out_stride, global float *lse, long lse_offset,  \
      int T, int H, int d, int nope, int dv, float scale, int first, int count

#define KEY_BLOCK 64
#define MOST_QUERY 576
#define MOST_VALUE 512

// Value i of row t's query: the last d rotated. q points at the head.
INLINE float query_value(const global float* q, const global float* cos_sin, int i, int nope) {
  if (i < nope) return q[i];
  const int pair = (i - nope) / 2 * 2;
  const float a = q[nope + pair];
  const float b = q[nope + pair + 1];
  const float c = cos_sin[pair];
  const float s = cos_sin[pair + 1];
  return (i - nope) % 2 == 0 ? a * c - b * s : a * s + b * c;
}

// What the result of a run and that of the runs before count for. A run of which the row sees
// nothing counts for nothing: its lse is -inf.
typedef struct {
  float mine, before, lse;
} share_t;

INLINE share_t share_of(float mine, float before) {
  share_t s = {1.0f, 0.0f, mine};
  if (before == -INFINITY) return s;
  const float most = fmax(mine, before);
  const float a = exp(mine - most);
  const float b = exp(before - most);
  s.mine = a / (a + b);
  s.before = b / (a + b);
  s.lse = most + log(a + b);
  return s;
}

kernel __attribute__((reqd_work_group_size(1, 1, 1))) void mla_expanded_item(EXPANDED_ARGS) {
  const int h = (int)get_group_id(0);
  const long t = get_group_id(1);
  const int last = min(n_keys[n_keys_offset + t] - first, count);
  if (last <= 0) return;
  const int width = nope + dv;
  const int dk = nope + d;
  const int dk8 = dk / 8;
  const int dv8 = dv / 8;
  const long row = (long)H * width;
  q += q_offset + t * q_stride + (long)h * dk;
  cos_sin += cos_sin_offset + t * d;
  expanded += expanded_offset + (long)h * width;
  rope += rope_offset;
  out += out_offset + t * out_stride + (long)h * dv;
  lse += lse_offset + t * H + h;

  float8 query[MOST_QUERY / 8];
  float8 sum[MOST_VALUE / 8 + 1];  // the last holds dv % 8 values
  float score[KEY_BLOCK];
  float largest = -INFINITY;
  float total = 0.0f;
  float* const tail = (float*)(sum + dv8);
  for (int i = 0; i < dk; ++i) ((float*)query)[i] = query_value(q, cos_sin, i, nope);
  for (int v = 0; v <= dv8; ++v) sum[v] = (float8)(0.0f);

  for (int j0 = 0; j0 < last; j0 += KEY_BLOCK) {
    const int here = min(KEY_BLOCK, last - j0);
    float most = largest;
    for (int j = 0; j < here; ++j) {
      const global float* k = expanded + (j0 + j) * row;
      const global float* r = rope + (long)(j0 + j) * d - nope;
      float8 products = (float8)(0.0f);
      if (nope % 8 == 0) {
        for (int i = 0; i < nope / 8; ++i) products = fma(query[i], vload8(i, k), products);
        for (int i = nope / 8; i < dk8; ++i) products = fma(query[i], vload8(i, r), products);
      }
      float s = sum8(products);
      for (int i = nope % 8 == 0 ? dk8 * 8 : 0; i < dk; ++i) {
        s = fma(((const float*)query)[i], i < nope ? k[i] : r[i], s);
      }
      score[j] = s * scale;
      most = fmax(most, score[j]);
    }
    const float correction = exp(largest - most);
    largest = most;
    total *= correction;
    for (int v = 0; v <= dv8; ++v) sum[v] *= correction;
    for (int j = 0; j < here; ++j) {
      const global float* value = expanded + (j0 + j) * row + nope;
      const float p = exp(score[j] - largest);
      total += p;
      for (int v = 0; v < dv8; ++v) sum[v] = fma((float8)(p), vload8(v, value), sum[v]);
      for (int v = dv8 * 8; v < dv; ++v) tail[v % 8] = fma(p, value[v], tail[v % 8]);
    }
  }
  const share_t share = share_of(largest + log(total), first > 0 ? *lse : -INFINITY);
  const float factor = share.mine / total;
  for (int v = 0; v < dv; ++v) {
    const float mine = ((const float*)sum)[v] * factor;
    out[v] = share.before > 0.0f ? fma(out[v], share.before, mine) : mine;
  }
  *lse = share.lse;
}

#define GROUP_ITEMS 256
#define GROUP_ROWS 8
#define SCORE_ROWS (GROUP_ROWS / (GROUP_ITEMS / KEY_BLOCK))  // of an item
#define SUM_COLUMNS 128
#define SUM_ROWS (GROUP_ROWS / (GROUP_ITEMS / SUM_COLUMNS))
#define SUMS (MOST_VALUE / SUM_COLUMNS)

// score[row][key] of 64 keys from j0 on, -inf where a row has no key.
INLINE void group_scores(local float* score, const local float* query, const global float* expanded,
                         const global float* rope, long row, const local int* limits, int j0,
                         int count, int d, int nope, float scale) {
  const int lid = (int)get_local_id(0);
  const int j = min(j0 + lid % KEY_BLOCK, count - 1);
  const int first_row = lid / KEY_BLOCK * SCORE_ROWS;
  const global float* k = expanded + j * row;
  const global float* r = rope + (long)j * d;
  float s[SCORE_ROWS];
  for (int i = 0; i < SCORE_ROWS; ++i) s[i] = 0.0f;
  for (int c = 0; c < nope + d; ++c) {
    const float v = c < nope ? k[c] : r[c - nope];
    for (int i = 0; i < SCORE_ROWS; ++i) {
      s[i] = fma(query[(first_row + i) * MOST_QUERY + c], v, s[i]);
    }
  }
  for (int i = 0; i < SCORE_ROWS; ++i) {
    const int valid = j0 + lid % KEY_BLOCK < limits[first_row + i];
    score[(first_row + i) * KEY_BLOCK + lid % KEY_BLOCK] = valid ? s[i] * scale : -INFINITY;
  }
}

// Every row's scores become probabilities; an item a row.
INLINE void group_softmax(local float* score, local float* largest, local float* total,
                          local float* correction) {
  const int lid = (int)get_local_id(0);
  if (lid >= GROUP_ROWS) return;
  local float* const s = score + lid * KEY_BLOCK;
  float most = largest[lid];
  for (int j = 0; j < KEY_BLOCK; ++j) most = fmax(most, s[j]);
  const float base = most == -INFINITY ? 0.0f : most;
  correction[lid] = exp(largest[lid] - base);
  float sum = total[lid] * correction[lid];
  for (int j = 0; j < KEY_BLOCK; ++j) {
    s[j] = exp(s[j] - base);
    sum += s[j];
  }
  largest[lid] = most;
  total[lid] = sum;
}

kernel __attribute__((reqd_work_group_size(GROUP_ITEMS, 1, 1))) void mla_expanded_group(
    EXPANDED_ARGS) {
  local float query[GROUP_ROWS * MOST_QUERY];
  local float score[GROUP_ROWS * KEY_BLOCK];
  local float largest[GROUP_ROWS];
  local float total[GROUP_ROWS];
  local float correction[GROUP_ROWS];
  local int limits[GROUP_ROWS];
  const int lid = (int)get_local_id(0);
  const int h = (int)get_group_id(0);
  const int t0 = (int)get_group_id(1) * GROUP_ROWS;
  const int rows = min(GROUP_ROWS, T - t0);
  const int width = nope + dv;
  const int dk = nope + d;
  const long row = (long)H * width;
  expanded += expanded_offset + (long)h * width;
  rope += rope_offset;
  for (int i = lid; i < GROUP_ROWS * dk; i += GROUP_ITEMS) {
    const int t = t0 + min(i / dk, rows - 1);
    query[i / dk * MOST_QUERY + i % dk] =
        query_value(q + q_offset + t * q_stride + (long)h * dk,
                    cos_sin + cos_sin_offset + (long)t * d, i % dk, nope);
  }
  if (lid < GROUP_ROWS) {
    limits[lid] = lid < rows ? min(n_keys[n_keys_offset + t0 + lid] - first, count) : 0;
    largest[lid] = -INFINITY;
    total[lid] = 0.0f;
  }
  const int last = min(n_keys[n_keys_offset + t0 + rows - 1] - first, count);
  float sum[SUMS][SUM_ROWS];
  for (int c = 0; c < SUMS; ++c) {
    for (int i = 0; i < SUM_ROWS; ++i) sum[c][i] = 0.0f;
  }
  const int column = lid % SUM_COLUMNS;
  const int sum_row = lid / SUM_COLUMNS * SUM_ROWS;
  for (int j0 = 0; j0 < last; j0 += KEY_BLOCK) {
    barrier(CLK_LOCAL_MEM_FENCE);
    group_scores(score, query, expanded, rope, row, limits, j0, count, d, nope, scale);
    barrier(CLK_LOCAL_MEM_FENCE);
    group_softmax(score, largest, total, correction);
    barrier(CLK_LOCAL_MEM_FENCE);
    const int here = min(KEY_BLOCK, last - j0);
    for (int c = 0; c < SUMS; ++c) {
      const int v = c * SUM_COLUMNS + column;
      if (v >= dv) continue;
      for (int i = 0; i < SUM_ROWS; ++i) sum[c][i] *= correction[sum_row + i];
      for (int j = 0; j < here; ++j) {
        const float value = expanded[(j0 + j) * row + nope + v];
        for (int i = 0; i < SUM_ROWS; ++i) {
          sum[c][i] = fma(score[(sum_row + i) * KEY_BLOCK + j], value, sum[c][i]);
        }
      }
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = 0; i < SUM_ROWS; ++i) {
    const int r = sum_row + i;
    if (limits[r] <= 0) continue;
    global float* const left = lse + lse_offset + (long)(t0 + r) * H + h;
    const share_t share = share_of(largest[r] + log(total[r]), first > 0 ? *left : -INFINITY);
    const float factor = share.mine / total[r];
    global float* const to = out + out_offset + (t0 + r) * out_stride + (long)h * dv;
    for (int c = 0; c < SUMS; ++c) {
      const int v = c * SUM_COLUMNS + column;
      if (v >= dv) continue;
      const float mine = sum[c][i] * factor;
      to[v] = share.before > 0.0f ? fma(to[v], share.before, mine) : mine;
    }
    correction[r] = share.lse;  // the same from every item
  }
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);  // every item has read lse
  if (lid < GROUP_ROWS && limits[lid] > 0) {
    lse[lse_offset + (long)(t0 + lid) * H + h] = correction[lid];
  }
}
