// MLA of a step's only row over few keys, in one launch: what mla_append, mla_query_transposed,
// mla_attention and mla_output do in three, for kv_b in one matrix in bf16, f16 or f8, R = 512, d = 64,
// nope = dv = 128 and a cache in f16 or bf16.
//   mla_one_row_f16, mla_one_row_bf16      global (splits * 256, H)   local (256, 1)
// A work-group has a head and a run of keys, each an equal share of all. It makes the head's query
// by itself, as the others of the head do: the same 128 rows of kv_b, which come from the cache for
// all but one. The one whose run has the newest key appends it first; all heads write the same bytes.
// Every warp goes through its own keys, four at a time, which it reads once; a work-item has 16
// columns of the latent and 2 of the roped part. The last work-group of a head to arrive merges the
// runs and multiplies with W_UV. Sums are in f32 throughout.

INLINE float8 key_values(const global uchar* p, const int kv_type) {
  if (kv_type == KVTYPE_F16) return vloada_half8(0, (const global half*)p);
  return f32_of_bf16(convert_uint8(as_ushort8(*(const global uint4*)p)));
}

INLINE float2 key_pair(const global uchar* p, const int kv_type) {
  if (kv_type == KVTYPE_F16) return vloada_half2(0, (const global half*)p);
  const uint both = *(const global uint*)p;
  return (float2)(as_float(both << 16), as_float(both & 0xffff0000u));
}

// What a warp has seen of its keys: the sums are over exp(score - largest).
typedef struct {
  float8 low, high;
  float largest, total;
} seen_t;

// Four keys, of which those from `last` on do not count.
INLINE void see_keys(seen_t* s, const global uchar* kv, const global int* table, int first,
                     int last, float8 q_low, float8 q_high, float2 q_rope, int lane,
                     local mla_room_t* room, const int kv_type) {
  float8 low[ROW_KEYS], high[ROW_KEYS];
  float2 rope[ROW_KEYS];
#pragma unroll
  for (int i = 0; i < ROW_KEYS; ++i) {
    const int j = min(first + i * ROW_WARPS, last - 1);
    const global uchar* const k =
        kv + ((long)table[j / KEY_BLOCK] * KEY_BLOCK + j % KEY_BLOCK) * ROW_TOKEN_BYTES;
    low[i] = key_values(k + lane * 16, kv_type);
    high[i] = key_values(k + ROW_R + lane * 16, kv_type);
    rope[i] = key_pair(k + 2 * ROW_R + lane * 4, kv_type);
  }
  float score[ROW_KEYS];
#pragma unroll
  for (int i = 0; i < ROW_KEYS; ++i) {
    score[i] = dot8(low[i], q_low, dot8(high[i], q_high, 0.0f));
    score[i] = fma(rope[i].x, q_rope.x, fma(rope[i].y, q_rope.y, score[i]));
  }
  const float4 sums = warp_sums((float4)(score[0], score[1], score[2], score[3]), room);
  score[0] = sums.x;
  score[1] = sums.y;
  score[2] = sums.z;
  score[3] = sums.w;
  float largest = s->largest;
#pragma unroll
  for (int i = 0; i < ROW_KEYS; ++i) {
    if (first + i * ROW_WARPS < last) largest = fmax(largest, score[i]);
  }
  const float correction = exp(s->largest - largest);
  s->largest = largest;
  s->total *= correction;
  s->low *= correction;
  s->high *= correction;
#pragma unroll
  for (int i = 0; i < ROW_KEYS; ++i) {
    const float p = first + i * ROW_WARPS < last ? exp(score[i] - largest) : 0.0f;
    s->total += p;
    s->low = fma((float8)(p), low[i], s->low);
    s->high = fma((float8)(p), high[i], s->high);
  }
}

// The warps' sums joined into two columns of each item, lid and lid + 256, divided by the total.
// Gives the log-sum-exp.
INLINE float join_warps(float2* joined, const seen_t* s, local mla_room_t* room, int lane,
                        int warp) {
  const int lid = (int)get_local_id(0);
  put_row(room->part + warp * ROW_R, s->low, s->high, lane);
  if (lane == 0) {
    room->largest[warp] = s->largest;
    room->total[warp] = s->total;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  float largest = room->largest[0];
#pragma unroll
  for (int i = 1; i < ROW_WARPS; ++i) largest = fmax(largest, room->largest[i]);
  float total = 0.0f;
  float2 sum = (float2)(0.0f);
#pragma unroll
  for (int i = 0; i < ROW_WARPS; ++i) {
    const float by = exp(room->largest[i] - largest);
    total = fma(by, room->total[i], total);
    sum.x = fma(by, room->part[i * ROW_R + lid], sum.x);
    sum.y = fma(by, room->part[i * ROW_R + ROW_R / 2 + lid], sum.y);
  }
  *joined = total > 0.0f ? sum / total : (float2)(0.0f);
  return total > 0.0f ? largest + log(total) : -INFINITY;
}

// The same of the head's runs.
INLINE float2 join_runs(const volatile global float* parts, const volatile global float* lse,
                        int splits) {
  const int lid = (int)get_local_id(0);
  float x[ROW_SPLITS], y[ROW_SPLITS], of_run[ROW_SPLITS];
#pragma unroll
  for (int i = 0; i < ROW_SPLITS; ++i) {
    const int run = min(i, splits - 1);
    of_run[i] = lse[run];
    x[i] = parts[run * ROW_R + lid];
    y[i] = parts[run * ROW_R + ROW_R / 2 + lid];
  }
  float largest = of_run[0];
#pragma unroll
  for (int i = 1; i < ROW_SPLITS; ++i) largest = fmax(largest, of_run[i]);
  float total = 0.0f;
  float2 sum = (float2)(0.0f);
#pragma unroll
  for (int i = 0; i < ROW_SPLITS; ++i) {
    const float by = i < splits ? exp(of_run[i] - largest) : 0.0f;
    total += by;
    sum = fma((float2)(by), (float2)(x[i], y[i]), sum);
  }
  return sum / total;
}

// Lines of what the work-group reads later, on their way to the cache: its first keys, and its
// share of W_UV.
INLINE void fetch_ahead(const global uchar* kv, const global int* table, int first, int last,
                        matrix_t m, long row, int split, int splits) {
#if NV_COMPUTE >= 70
  const int lid = (int)get_local_id(0);
  const int key = first + lid / 8;
  if (key < last) {
    const global uchar* const k =
        kv + ((long)table[key / KEY_BLOCK] * KEY_BLOCK + key % KEY_BLOCK) * ROW_TOKEN_BYTES;
    for (int line = lid % 8; line < ROW_TOKEN_BYTES / 128; line += 8) {
      asm volatile("prefetch.global.L2 [%0];" : : "l"(k + line * 128));
    }
  }
  const int bytes = ROW_HEAD * ROW_R * WBYTES;
  for (int b = (split * ROW_ITEMS + lid) * 128; b < bytes; b += splits * ROW_ITEMS * 128) {
    asm volatile("prefetch.global.L2 [%0];" : : "l"(m.data + row * ROW_R * WBYTES + b));
  }
#endif
}

INLINE void mla_one_row(const global float* q, const global float* z, const global float* norm_w,
                        const global float* cos_sin, const global int* batch, global uchar* kv,
                        const global uchar* w, global float* parts, global float* lse,
                        global float* out, volatile global int* arrived,
                        const mla_row_t* a, local mla_room_t* room, const int kv_type) {
  const int lid = (int)get_local_id(0);
  const int lane = lid % ROW_LANES;
  const int warp = lid / ROW_LANES;
  const int split = (int)get_group_id(0);
  const int splits = (int)get_num_groups(0);
  const int h = (int)get_group_id(1);
  const long head_row = (long)h * 2 * ROW_HEAD;
  const matrix_t m =
      matrix_at(w, a->w_offset, a->scale_offset, (long)a->H * 2 * ROW_HEAD, ROW_R);
  const long uk_row = head_row + warp * TILE_ROWS;
  row_codes_t codes[TILE_AHEAD];
  load_tile(codes, m, uk_row, lane, 0);

  const int keys = batch[a->n_keys_offset];
  const int run = (keys + splits - 1) / splits;
  const int first = min(split * run, keys);
  const int last = min(first + run, keys);
  const global int* const table = batch + a->tables_offset + batch[a->table_start_offset];
  fetch_ahead(kv, table, first, last, m, head_row + ROW_HEAD, split, splits);

  q += a->q_offset + h * (ROW_HEAD + ROW_D);
  cos_sin += a->cos_sin_offset;
  if (lid < ROW_HEAD) room->key[lid] = q[lid];
  float2 rope = (float2)(0.0f);
  if (lid < ROW_D / 2) {
    const float2 v = (float2)(q[ROW_HEAD + 2 * lid], q[ROW_HEAD + 2 * lid + 1]);
    const float2 turn = (float2)(cos_sin[2 * lid], cos_sin[2 * lid + 1]);
    rope = (float2)(v.x * turn.x - v.y * turn.y, v.x * turn.y + v.y * turn.x) * a->scale;
  }
  if (a->append && last == keys && first < last) {
    append_token(z + a->z_offset, norm_w + a->norm_offset, cos_sin, kv, kv_type,
                 batch[a->slots_offset], ROW_R, ROW_D, a->eps, room->append, ROW_ITEMS);
  }
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
  query_part(room->part, codes, m, uk_row, room->key + warp * TILE_ROWS, lane, warp);
  barrier(CLK_LOCAL_MEM_FENCE);
  float2 query = (float2)(0.0f);
#pragma unroll
  for (int i = 0; i < ROW_WARPS; ++i) {
    query.x += room->part[i * ROW_R + lid];
    query.y += room->part[i * ROW_R + ROW_R / 2 + lid];
  }
  room->key[lid] = query.x * a->scale;
  room->key[ROW_R / 2 + lid] = query.y * a->scale;
  if (lid < ROW_D / 2) {
    room->key[ROW_R + 2 * lid] = rope.x;
    room->key[ROW_R + 2 * lid + 1] = rope.y;
  }
  barrier(CLK_LOCAL_MEM_FENCE);

  const float16 query16 = get_row(room->key, lane);
  const float2 q_rope = (float2)(room->key[ROW_R + 2 * lane], room->key[ROW_R + 2 * lane + 1]);
  seen_t seen = {(float8)(0.0f), (float8)(0.0f), -1e30f, 0.0f};
  for (int j = first; j < last; j += ROW_KEYS * ROW_WARPS) {
    see_keys(&seen, kv, table, j + warp, last, query16.lo, query16.hi, q_rope, lane, room,
             kv_type);
  }
  float2 values;
  const float run_lse = join_warps(&values, &seen, room, lane, warp);
  const long uv_row = head_row + ROW_HEAD + warp * TILE_ROWS;
  if (splits > 1) {
    parts += a->parts_offset + (long)h * splits * ROW_R;
    lse += a->lse_offset + h * splits;
    parts[split * ROW_R + lid] = values.x;
    parts[split * ROW_R + ROW_R / 2 + lid] = values.y;
    if (lid == 0) lse[split] = run_lse;
    if (!is_last_group(arrived + h, splits, &room->last)) return;
  }
  load_tile(codes, m, uv_row, lane, 0);
  if (splits > 1) values = join_runs(parts, lse, splits);
  room->key[lid] = values.x;
  room->key[ROW_R / 2 + lid] = values.y;
  barrier(CLK_LOCAL_MEM_FENCE);
  const float16 merged = get_row(room->key, lane);
  output_part(room->part, codes, m, uv_row, merged.lo, merged.hi, lane, warp);
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid >= ROW_HEAD) return;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < ROW_LANES; ++i) sum += room->part[lid * (ROW_LANES + 1) + i];
  out[a->out_offset + h * ROW_HEAD + lid] = sum;
}

kernel __attribute__((reqd_work_group_size(ROW_ITEMS, 1, 1))) void mla_one_row_f16(ROW_ARGS) {
  local mla_room_t room __attribute__((aligned(16)));
  mla_one_row(ROW_PASS, &room, KVTYPE_F16);
}

kernel __attribute__((reqd_work_group_size(ROW_ITEMS, 1, 1))) void mla_one_row_bf16(ROW_ARGS) {
  local mla_room_t room __attribute__((aligned(16)));
  mla_one_row(ROW_PASS, &room, KVTYPE_BF16);
}
