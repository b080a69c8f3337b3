// Hand-over of a MoE layer between the device and the host's team, through `shared`: memory that
// the host and a running kernel both see. Words of 4 bytes:
//   PUBLISHED  device: sequence number of the layer whose payload lies there
//   DELIVERED  host: sequence number of the layer whose sum lies there
//   ABANDONED  host: not 0 where no sum will come any more
//   GAVE_UP    device: not 0 since a waiting kernel gave up; the word after it has its number
//   64         the first slot: h f32 [T, D], ids i32 [T, K], weights f32 [T, K]; then, from a
//              multiple of 32 words on, the host's sum f32 [T, D]; behind it the second
// The host may still compute one layer when the device publishes the next, so layers use the two
// slots in turn; a kernel gets the first word of what it needs.
// Sequence numbers grow for ever, modulo 2^32, so that nothing is reset between layers and steps.
// One side writes its payload, then its number; the other sees the number, then reads the payload.
//
// `control`, on the device: ARRIVED work-groups of a launch of several; STOPPED not 0 since a
// waiting kernel gave up, so that no later one waits in vain; GO 1 where the sum has come.
//
// hand_over_publish  payload and number             global (groups * G)   local (G)
// hand_over_take     waits; x[t, :] += sum[t, :]    global (G)            local (G)
// hand_over_wait     waits, sets GO                 global (1)            local (1)
// hand_over_add      x[t, :] += sum[t, :] if GO     global (groups * G)   local (G)
//   x f32, rows x_stride apart; G = HAND_OVER_GROUP
// A kernel that waits is one work-group and reads the number `turns` times at the most.
#ifndef HAND_OVER_GROUP
#define HAND_OVER_GROUP 1
#endif

#define PUBLISHED 0
#define DELIVERED 16  // and ABANDONED: one load of 8 bytes reads both
#define ABANDONED 17
#define GAVE_UP 32
#define ARRIVED 0
#define STOPPED 1
#define GO 2

// Orders memory for the whole system: mem_fence orders it for the device only.
#if NV_COMPUTE >= 70
#define SYSTEM_FENCE() __asm__ volatile("fence.acq_rel.sys;" ::: "memory")
#elif NV_COMPUTE > 0
#define SYSTEM_FENCE() __asm__ volatile("membar.sys;" ::: "memory")
#else
#define SYSTEM_FENCE() mem_fence(CLK_GLOBAL_MEM_FENCE)
#endif

// A work-item has IN_FLIGHT loads under way before it uses the first: over PCIe one takes a
// microsecond and more. 32 bits: a division of 64 takes a hundred instructions.
#define IN_FLIGHT 8

// to[i] = from[i], i < n, by all work-items of the launch, where both are aligned to 16 bytes.
INLINE void hand_over_copy4(const global float4* from, global float4* to, uint n) {
  const uint items = get_global_size(0);
  for (uint i = get_global_id(0); i < n; i += IN_FLIGHT * items) {
    float4 v[IN_FLIGHT];
#pragma unroll
    for (uint j = 0; j < IN_FLIGHT; ++j) {
      if (i + j * items < n) v[j] = from[i + j * items];
    }
#pragma unroll
    for (uint j = 0; j < IN_FLIGHT; ++j) {
      if (i + j * items < n) to[i + j * items] = v[j];
    }
  }
}

INLINE void hand_over_copy(const global float* from, int aligned, global float* to, uint n) {
  const uint fours = aligned ? n / 4 : 0;
  hand_over_copy4((const global float4*)from, (global float4*)to, fours);
  for (uint i = 4 * fours + get_global_id(0); i < n; i += get_global_size(0)) to[i] = from[i];
}

// x[t, d] += sum[t, d] by all work-items of the launch.
INLINE void hand_over_sum4(const global float4* sum, global float* x, long x_stride, uint T,
                           uint columns) {
  const uint items = get_global_size(0);
  for (uint i = get_global_id(0); i < T * columns; i += IN_FLIGHT * items) {
    float4 v[IN_FLIGHT];
#pragma unroll
    for (uint j = 0; j < IN_FLIGHT; ++j) {
      if (i + j * items < T * columns) v[j] = sum[i + j * items];
    }
#pragma unroll
    for (uint j = 0; j < IN_FLIGHT; ++j) {
      const uint k = i + j * items;
      const uint t = k / columns;
      if (t < T) ((global float4*)(x + t * x_stride))[k - t * columns] += v[j];
    }
  }
}

INLINE void hand_over_sum(const global float* sum, global float* x, long x_stride, int aligned,
                          uint T, uint D) {
  if (aligned) {
    hand_over_sum4((const global float4*)sum, x, x_stride, T, D / 4);
    return;
  }
  for (uint i = get_global_id(0); i < T * D; i += get_global_size(0)) {
    x[i / D * x_stride + i % D] += sum[i];
  }
}

// 1 when the sum of `sequence` has come; 0 when there will be none. One work-item calls it.
INLINE int await_sum(volatile global uint* shared, volatile global uint* control, uint sequence,
                     ulong turns) {
  if (control[STOPPED]) return 0;
  for (ulong turn = 0; turn < turns; ++turn) {
    const uint2 host = *(volatile const global uint2*)(shared + DELIVERED);
    if (host.y) return 0;
    if ((int)(host.x - sequence) >= 0) {
      SYSTEM_FENCE();
      return 1;
    }
  }
  control[STOPPED] = 1;
  shared[GAVE_UP + 1] = sequence;
  SYSTEM_FENCE();
  shared[GAVE_UP] = 1;
  return 0;
}

kernel __attribute__((reqd_work_group_size(HAND_OVER_GROUP, 1, 1))) void hand_over_publish(
    const global float* h, long h_offset, const global float* ids, long ids_offset,
    const global float* weights, long weights_offset, global float* shared, long first,
    global uint* control, long T, long D, long K, int sequence) {
  global float* payload = shared + first;
  hand_over_copy(h + h_offset, h_offset % 4 == 0, payload, T * D);
  // Bits of i32 pass as f32: nothing is computed with them.
  for (long i = get_global_id(0); i < T * K; i += get_global_size(0)) {
    ((global uint*)payload)[T * D + i] = ((const global uint*)ids)[ids_offset + i];
    payload[T * (D + K) + i] = weights[weights_offset + i];
  }
  barrier(CLK_GLOBAL_MEM_FENCE);
  if (get_local_id(0) != 0) return;
  SYSTEM_FENCE();
  if (get_num_groups(0) > 1) {
    if (atomic_inc(control + ARRIVED) + 1 != get_num_groups(0)) return;
    control[ARRIVED] = 0;
    SYSTEM_FENCE();
  }
  ((volatile global uint*)shared)[PUBLISHED] = (uint)sequence;
}

kernel __attribute__((reqd_work_group_size(HAND_OVER_GROUP, 1, 1))) void hand_over_take(
    global float* shared, long sum, global uint* control, global float* x, long x_offset,
    long x_stride, long T, long D, int sequence, ulong turns) {
  local int go[1];
  if (get_local_id(0) == 0) {
    go[0] = await_sum((volatile global uint*)shared, control, (uint)sequence, turns);
  }
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
  if (!go[0]) return;
  const int aligned = ((x_offset | x_stride | D) & 3) == 0;
  hand_over_sum(shared + sum, x + x_offset, x_stride, aligned, T, D);
}

kernel __attribute__((reqd_work_group_size(1, 1, 1))) void hand_over_wait(global uint* shared,
                                                                          global uint* control,
                                                                          int sequence,
                                                                          ulong turns) {
  control[GO] = await_sum(shared, control, (uint)sequence, turns);
}

kernel __attribute__((reqd_work_group_size(HAND_OVER_GROUP, 1, 1))) void hand_over_add(
    const global float* sum, long sum_offset, const global uint* control, global float* x,
    long x_offset, long x_stride, long T, long D) {
  if (!control[GO]) return;
  const int aligned = ((sum_offset | x_offset | x_stride | D) & 3) == 0;
  hand_over_sum(sum + sum_offset, x + x_offset, x_stride, aligned, T, D);
}
