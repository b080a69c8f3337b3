// s[h, j] = scale * q[t, h] . K(j, h)
// out[t, h, :] = sum_j softmax_j(s[h, j]) V(j, h)      j < n_keys[t]
//   q, out : f32, rows and heads *_stride apart
//   kv     : KVTYPE [slots, width]; token j of row t lies in slot
//            tables[table_start[t] + j / 64] * 64 + j % 64. K(j, h) starts at k_offset +
//            h * k_head_stride of it, V(j, h) at v_offset + h * v_head_stride. MLA in its absorbed
//            form (DeepSeek-V2 section 2.1) has both strides 0.
//   dk <= MAX_DK, dv <= MAX_DV
//   share  : ALONE, or these are a row's keys in one of several buffers: FIRST writes out and
//            lse[t, h] = log sum_j exp(s[h, j]), NEXT merges its sums with both. Rows may then have
//            no keys, n_keys[t] = 0: lse is -INFINITY, or stays.
// Online softmax: after each block of 64 keys the running maximum and sum are corrected, so any
// n_keys fits. A row's result depends on that row alone.
//
//   attention_item     for CPUs: a work-item per row and head.
//                      global (heads, T)   local (1, 1)
//   attention_group_8, attention_group_1
//                      for GPUs: a work-group per row and H = 8 heads that share K and V (MLA), or
//                      per row and head. 64 keys x 4 parts of dk in the scores, dv columns in the
//                      sum.   global (ceil(heads / H) * 256, T)   local (256, 1)
#define MAX_DK 576
#define MAX_DV 512
#define BLOCK 64

#if KVTYPE == KVTYPE_F32
typedef float kv_t;
#else
typedef ushort kv_t;
#endif

INLINE float kv1(const global kv_t* p) {
#if KVTYPE == KVTYPE_F32
  return *p;
#elif KVTYPE == KVTYPE_F16
  return vload_half(0, (const global half*)p);
#else
  return as_float((uint)*p << 16);
#endif
}

INLINE float8 kv8(const global kv_t* p, int aligned) {
#if KVTYPE == KVTYPE_F32
  return load8(p, aligned);
#elif KVTYPE == KVTYPE_F16
  if (!aligned) return f32_of_f16(convert_uint8(vload8(0, p)));
  return vloada_half8(0, (const global half*)p);
#else
  if (!aligned) return f32_of_bf16(convert_uint8(vload8(0, p)));
  return f32_of_bf16(convert_uint8(as_ushort8(*(const global uint4*)p)));
#endif
}

#define ATTENTION_ARGS                                                                          \
  const global float *q, long q_offset, long q_row_stride, long q_head_stride,                  \
      const global kv_t *kv, long width, long k_offset, long k_head_stride, long v_offset,      \
      long v_head_stride, int kv_aligned, const global int *tables, long tables_offset,         \
      const global int *table_start, long table_start_offset, const global int *n_keys,         \
      long n_keys_offset, global float *out, long out_offset, long out_row_stride,              \
      long out_head_stride, int heads, int dk, int dv, float scale, int share, global float *lse, \
      long lse_offset

#define ALONE 0
#define FIRST 1
#define NEXT 2

// By what out and the sum of this launch's keys, not yet divided by `total`, count in their merge.
typedef struct {
  float before, sum, lse;
} weights_t;

INLINE weights_t merge_weights(int share, float before, float largest, float total) {
  weights_t w = {0.0f, 1.0f / total, 0.0f};
  if (share == ALONE) return w;
  w.before = 1.0f;
  w.sum = 0.0f;
  w.lse = before;
  if (total == 0.0f) return w;
  const float own = largest + log(total);
  const float most = fmax(before, own);
  const float both = exp(before - most) + exp(own - most);
  w.before = exp(before - most) / both;
  w.sum = exp(own - most) / both / total;
  w.lse = most + log(both);
  return w;
}

INLINE float merged(int share, weights_t w, float before, float sum) {
  return share == NEXT ? fma(before, w.before, sum * w.sum) : sum * w.sum;
}

kernel __attribute__((reqd_work_group_size(1, 1, 1))) void attention_item(ATTENTION_ARGS) {
  const long h = get_group_id(0);
  const long t = get_group_id(1);
  const int keys = n_keys[n_keys_offset + t];
  const global int* table = tables + tables_offset + table_start[table_start_offset + t];
  const int dk8 = dk / 8 * 8;
  const int dv8 = dv / 8;
  q += q_offset + t * q_row_stride + h * q_head_stride;
  out += out_offset + t * out_row_stride + h * out_head_stride;
  lse += lse_offset + t * heads + h;

  float8 sum[MAX_DV / 8 + 1];  // the last holds dv % 8 values
  float score[BLOCK];
  float largest = -INFINITY;
  float total = 0.0f;
  for (int v = 0; v <= dv8; ++v) sum[v] = (float8)(0.0f);

  for (int j0 = 0; j0 < keys; j0 += BLOCK) {
    const global kv_t* block = kv + (long)table[j0 / BLOCK] * BLOCK * width;
    const int count = min(BLOCK, keys - j0);
    float block_largest = largest;
    for (int j = 0; j < count; ++j) {
      const global kv_t* k = block + j * width + k_offset + h * k_head_stride;
      float8 products = (float8)(0.0f);
      for (int i = 0; i < dk8; i += 8) products = fma(vload8(0, q + i), kv8(k + i, 0), products);
      float s = sum8(products);
      for (int i = dk8; i < dk; ++i) s = fma(q[i], kv1(k + i), s);
      score[j] = s * scale;
      block_largest = fmax(block_largest, score[j]);
    }
    const float correction = exp(largest - block_largest);
    largest = block_largest;
    total *= correction;
    for (int v = 0; v <= dv8; ++v) sum[v] *= correction;
    for (int j = 0; j < count; ++j) {
      const global kv_t* value = block + j * width + v_offset + h * v_head_stride;
      const float p = exp(score[j] - largest);
      total += p;
      for (int v = 0; v < dv8; ++v) sum[v] = fma((float8)(p), kv8(value + v * 8, 0), sum[v]);
      float* tail = (float*)(sum + dv8);
      for (int v = dv8 * 8; v < dv; ++v) tail[v % 8] = fma(p, kv1(value + v), tail[v % 8]);
    }
  }
  const weights_t w = merge_weights(share, share == NEXT ? *lse : -INFINITY, largest, total);
  if (share != ALONE) *lse = w.lse;
  for (int v = 0; v < dv8; ++v) {
    const float8 before = share == NEXT ? vload8(v, out) : (float8)(0.0f);
    vstore8(share == NEXT ? fma(before, (float8)(w.before), sum[v] * w.sum) : sum[v] * w.sum, v,
            out);
  }
  for (int v = dv8 * 8; v < dv; ++v) {
    out[v] = merged(share, w, share == NEXT ? out[v] : 0.0f, ((const float*)(sum + dv8))[v % 8]);
  }
}

#define ATTENTION_GROUP 256
#define PARTS (ATTENTION_GROUP / BLOCK)  // of dk, in the scores
#define STEP 32                          // values of dk in local memory at a time
#define KEY_STRIDE (STEP + 4)            // 16-byte reads of neighbouring keys meet no bank twice
#define COLUMNS (MAX_DV / ATTENTION_GROUP)

// 32 values of 64 keys to local memory, zero where there is no key or dk ends; 8 values an item.
INLINE void load_keys(local float* tile, const global kv_t* keys, long width, int count, int d0,
                      int dk, int aligned) {
  const int lid = (int)get_local_id(0);
  const int j = lid / (STEP / 8);
  const int d = lid % (STEP / 8) * 8;
  const global kv_t* k = keys + j * width + d0 + d;
  float8 v = (float8)(0.0f);
  if (j < count && d0 + d + 8 <= dk) {
    v = kv8(k, aligned);
  } else if (j < count && d0 + d < dk) {
    float tail[8];
    for (int i = 0; i < 8; ++i) tail[i] = d0 + d + i < dk ? kv1(k + i) : 0.0f;
    v = vload8(0, tail);
  }
  vstore8(v, 0, tile + j * KEY_STRIDE + d);
}

// part[p][hh][j]: part p of dk of the scores of `n` heads, unscaled.
INLINE void part_scores(local float* part, local float* tile, const local float* q_local,
                        const global kv_t* keys, long width, int count, int dk, int aligned,
                        const int n) {
  const int lid = (int)get_local_id(0);
  const int j = lid % BLOCK;
  const int p = lid / BLOCK;
  float s[8];
#pragma unroll
  for (int hh = 0; hh < n; ++hh) s[hh] = 0.0f;
  for (int d0 = 0; d0 < dk; d0 += STEP) {
    barrier(CLK_LOCAL_MEM_FENCE);  // nobody reads the tile, or the last block's parts, any more
    load_keys(tile, keys, width, count, d0, dk, aligned);
    barrier(CLK_LOCAL_MEM_FENCE);
    const local float4* k4 = (const local float4*)(tile + j * KEY_STRIDE + p * (STEP / PARTS));
#pragma unroll
    for (int i = 0; i < STEP / PARTS / 4; ++i) {
      const float4 k = k4[i];
#pragma unroll
      for (int hh = 0; hh < n; ++hh) {
        const float4 a =
            *(const local float4*)(q_local + hh * MAX_DK + d0 + p * (STEP / PARTS) + 4 * i);
        s[hh] = fma(a.w, k.w, fma(a.z, k.z, fma(a.y, k.y, fma(a.x, k.x, s[hh]))));
      }
    }
  }
#pragma unroll
  for (int hh = 0; hh < n; ++hh) part[(p * n + hh) * BLOCK + j] = s[hh];
}

#define ATTENTION_KERNEL(NAME, H)                                                                \
  kernel __attribute__((reqd_work_group_size(ATTENTION_GROUP, 1, 1))) void NAME(                 \
      ATTENTION_ARGS) {                                                                          \
    local float q_local[H * MAX_DK] __attribute__((aligned(16)));                                \
    local float tile[BLOCK * KEY_STRIDE] __attribute__((aligned(16)));                           \
    local float part[PARTS * H * BLOCK];                                                         \
    local float score[H * BLOCK];                                                                \
    const int lid = (int)get_local_id(0);                                                        \
    const long t = get_group_id(1);                                                              \
    const int h0 = (int)get_group_id(0) * H;                                                     \
    const int keys = n_keys[n_keys_offset + t];                                                  \
    const global int* table = tables + tables_offset + table_start[table_start_offset + t];      \
    for (int i = lid; i < H * MAX_DK; i += ATTENTION_GROUP) {                                    \
      const long h = min(h0 + i / MAX_DK, heads - 1);                                            \
      const int d = i % MAX_DK;                                                                  \
      q_local[i] = d < dk ? q[q_offset + t * q_row_stride + h * q_head_stride + d] : 0.0f;       \
    }                                                                                            \
    float sum[H][COLUMNS];                                                                       \
    float largest[H];                                                                            \
    float total[H];                                                                              \
    _Pragma("unroll") for (int hh = 0; hh < H; ++hh) {                                           \
      largest[hh] = -INFINITY;                                                                   \
      total[hh] = 0.0f;                                                                          \
      _Pragma("unroll") for (int c = 0; c < COLUMNS; ++c) sum[hh][c] = 0.0f;                     \
    }                                                                                            \
    for (int j0 = 0; j0 < keys; j0 += BLOCK) {                                                   \
      const global kv_t* block = kv + (long)table[j0 / BLOCK] * BLOCK * width;                   \
      const int count = min(BLOCK, keys - j0);                                                   \
      part_scores(part, tile, q_local, block + k_offset + h0 * k_head_stride, width, count, dk,  \
                  kv_aligned, H);                                                                \
      barrier(CLK_LOCAL_MEM_FENCE);                                                              \
      for (int i = lid; i < H * BLOCK; i += ATTENTION_GROUP) {                                   \
        float s = part[i];                                                                       \
        for (int p = 1; p < PARTS; ++p) s += part[p * H * BLOCK + i];                            \
        score[i] = i % BLOCK < count ? s * scale : -INFINITY;                                    \
      }                                                                                          \
      barrier(CLK_LOCAL_MEM_FENCE);                                                              \
      _Pragma("unroll") for (int hh = 0; hh < H; ++hh) {                                         \
        float block_largest = largest[hh];                                                       \
        for (int j = 0; j < BLOCK; ++j) {                                                        \
          block_largest = fmax(block_largest, score[hh * BLOCK + j]);                            \
        }                                                                                        \
        const float correction = exp(largest[hh] - block_largest);                               \
        largest[hh] = block_largest;                                                             \
        total[hh] *= correction;                                                                 \
        _Pragma("unroll") for (int c = 0; c < COLUMNS; ++c) sum[hh][c] *= correction;            \
      }                                                                                          \
      barrier(CLK_LOCAL_MEM_FENCE);                                                              \
      _Pragma("unroll") for (int hh = 0; hh < H; ++hh) {                                         \
        if (lid < BLOCK) {                                                                       \
          score[hh * BLOCK + lid] = exp(score[hh * BLOCK + lid] - largest[hh]);                  \
        }                                                                                        \
      }                                                                                          \
      barrier(CLK_LOCAL_MEM_FENCE);                                                              \
      const global kv_t* values = block + v_offset + h0 * v_head_stride;                         \
      for (int j = 0; j < count; ++j) {                                                          \
        float value[COLUMNS];                                                                    \
        _Pragma("unroll") for (int c = 0; c < COLUMNS; ++c) {                                    \
          const int d = c * ATTENTION_GROUP + lid;                                               \
          value[c] = d < dv ? kv1(values + j * width + d) : 0.0f;                                \
        }                                                                                        \
        _Pragma("unroll") for (int hh = 0; hh < H; ++hh) {                                       \
          const float p = score[hh * BLOCK + j];                                                 \
          total[hh] += p;                                                                        \
          _Pragma("unroll") for (int c = 0; c < COLUMNS; ++c) {                                  \
            sum[hh][c] = fma(p, value[c], sum[hh][c]);                                           \
          }                                                                                      \
        }                                                                                        \
      }                                                                                          \
    }                                                                                            \
    float before[H];                                                                             \
    _Pragma("unroll") for (int hh = 0; hh < H; ++hh) {                                           \
      const long at = lse_offset + t * heads + min(h0 + hh, heads - 1);                          \
      before[hh] = share == NEXT ? lse[at] : -INFINITY;                                          \
    }                                                                                            \
    barrier(CLK_GLOBAL_MEM_FENCE); /* all have read what one writes */                           \
    _Pragma("unroll") for (int hh = 0; hh < H; ++hh) {                                           \
      const weights_t w = merge_weights(share, before[hh], largest[hh], total[hh]);              \
      if (share != ALONE && lid == 0 && h0 + hh < heads) {                                       \
        lse[lse_offset + t * heads + h0 + hh] = w.lse;                                           \
      }                                                                                          \
      _Pragma("unroll") for (int c = 0; c < COLUMNS; ++c) {                                      \
        const int d = c * ATTENTION_GROUP + lid;                                                 \
        if (h0 + hh < heads && d < dv) {                                                         \
          global float* o = out + out_offset + t * out_row_stride + (h0 + hh) * out_head_stride + d;\
          *o = merged(share, w, share == NEXT ? *o : 0.0f, sum[hh][c]);                          \
        }                                                                                        \
      }                                                                                          \
    }                                                                                            \
  }

ATTENTION_KERNEL(attention_group_8, 8)
ATTENTION_KERNEL(attention_group_1, 1)
