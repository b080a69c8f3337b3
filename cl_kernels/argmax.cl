// The largest of V logits of each row, in ARGMAX_PARTS parts that the host puts together:
//   best[r, p] = (value, id) of part p: the lowest id among equals; id -1 where a logit is NaN or
//   +infinity, which no token may be
//   argmax_f32  global (ARGMAX_PARTS * GROUP, rows)   local (GROUP, 1)
#define ARGMAX_PARTS 32

typedef struct {
  float value;
  int id;
} best_t;

INLINE best_t better(best_t a, best_t b) {
  if (a.id < 0 || b.id < 0) return a.id < 0 ? a : b;
  return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

// The best of the work-group's part, on its first work-item; `found` [GROUP].
INLINE best_t argmax_part(const global float* logits, int V, local best_t* found) {
  const int lid = (int)get_local_id(0);
  const int part = (int)get_group_id(0);
  const long row = get_group_id(1);
  const int length = (V + ARGMAX_PARTS - 1) / ARGMAX_PARTS;
  const int first = min(part * length, V - 1);  // a part beyond the end repeats the last logit
  const int last = max(first + 1, min(first + length, V));
  logits += row * V;
  best_t mine;
  mine.value = -INFINITY;
  mine.id = 0x7fffffff;
  for (int i = first + lid; i < last; i += GROUP) {
    best_t next;
    next.value = logits[i];
    next.id = isnan(next.value) || next.value == INFINITY ? -1 : i;
    mine = better(mine, next);
  }
  found[lid] = mine;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_group = GROUP / 2; half_group > 0; half_group /= 2) {
    if (lid < half_group) found[lid] = better(found[lid], found[lid + half_group]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  return found[0];
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void argmax_f32(
    const global float* logits, long logits_offset, int V, global best_t* best) {
  local best_t found[GROUP];
  const best_t mine = argmax_part(logits + logits_offset, V, found);
  if (get_local_id(0) == 0) best[get_group_id(1) * ARGMAX_PARTS + get_group_id(0)] = mine;
}
