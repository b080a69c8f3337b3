// A step's rows to the device, and the ids that it chose back, through `shared`: memory that the
// host and a running kernel both see. Words of 4 bytes:
//   FED        host: number of the last step whose rows lie there
//   DROPPED    host: number of the last step whose rows will not come any more
//   CHOSEN     device: number of the step whose ids lie there
//   LATE       device: number of a step whose rows were awaited in vain
//   64         ids, in argmax's parts; then two slots for what the host gives to a step, in turn
// Steps are numbered from 1 on, modulo 2^32, so that nothing is reset between them. One side writes
// its payload, then its number; the other sees the number, then reads the payload.
//
// `control`, on the device: IDS_ARRIVED work-groups of argmax_publish; ROWS_CAME 1 where rows came.
//
// feed_take       batch = its words; waits; x = rows                 global (G)            local (G)
// feed_wait       waits, sets ROWS_CAME                              global (1)            local (1)
// feed_copy       batch = its words; x = rows if ROWS_CAME           global (groups * G)   local (G)
// argmax_publish  argmax_f32 (argmax.cl), best in shared, and the number
//   G = HAND_OVER_GROUP. `batch` is a block of words: what attention needs to know of the rows. It
//   is there when the kernel is enqueued, only the rows come later. A kernel that waits is one
//   work-group and reads the number `turns` times at the most; x stays as it is where none came.
#define FED 0  // and DROPPED: one load of 8 bytes reads both
#define DROPPED 1
#define CHOSEN 16
#define LATE 32
#define IDS_ARRIVED 0
#define ROWS_CAME 1

// One work-item calls it.
INLINE int await_rows(volatile global uint* shared, uint step, ulong turns) {
  for (ulong turn = 0; turn < turns; ++turn) {
    const uint2 host = *(volatile const global uint2*)(shared + FED);
    if ((int)(host.y - step) >= 0) return 0;
    if ((int)(host.x - step) >= 0) {
      SYSTEM_FENCE();
      return 1;
    }
  }
  shared[LATE] = step;
  return 0;
}

kernel __attribute__((reqd_work_group_size(HAND_OVER_GROUP, 1, 1))) void feed_take(
    global float* shared, long words, int n_words, global float* batch, long rows, global float* x,
    int n, int step, ulong turns) {
  local int go[1];
  // Words first: they travel while the rows are not there yet.
  hand_over_copy(shared + words, 1, batch, n_words);
  if (get_local_id(0) == 0) go[0] = await_rows((volatile global uint*)shared, (uint)step, turns);
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
  if (go[0]) hand_over_copy(shared + rows, 1, x, n);
}

kernel __attribute__((reqd_work_group_size(1, 1, 1))) void feed_wait(global uint* shared,
                                                                     global uint* control, int step,
                                                                     ulong turns) {
  control[ROWS_CAME] = await_rows(shared, (uint)step, turns);
}

kernel __attribute__((reqd_work_group_size(HAND_OVER_GROUP, 1, 1))) void feed_copy(
    const global float* shared, long words, int n_words, global float* batch, long rows,
    global float* x, int n, const global uint* control) {
  hand_over_copy(shared + words, 1, batch, n_words);
  if (control[ROWS_CAME]) hand_over_copy(shared + rows, 1, x, n);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void argmax_publish(
    const global float* logits, long logits_offset, int V, global uint* shared, int first,
    volatile global uint* control, int step) {
  local best_t found[GROUP];
  const best_t best = argmax_part(logits + logits_offset, V, found);
  if (get_local_id(0) != 0) return;
  ((global best_t*)(shared + first))[get_group_id(1) * ARGMAX_PARTS + get_group_id(0)] = best;
  SYSTEM_FENCE();
  if (atomic_inc(control + IDS_ARRIVED) + 1 != get_num_groups(0) * get_num_groups(1)) return;
  control[IDS_ARRIVED] = 0;
  SYSTEM_FENCE();
  ((volatile global uint*)shared)[CHOSEN] = (uint)step;
}
