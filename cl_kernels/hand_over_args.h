#pragma once

#include <CL/cl.h>

#include <cstdint>

#include "cl_kernels/span.h"

namespace tandem::cl {

inline constexpr std::int64_t kHandOverPublished = 0, kHandOverDelivered = 16,
                              kHandOverAbandoned = 17, kHandOverGaveUp = 32, kHandOverPayload = 64;
inline constexpr std::int64_t kHandOverGo = 2;  // of control
inline constexpr std::uint64_t kHandOverControlBytes = 64;
// Layers on their way at a time: one that the host computes, one that waits for it.
inline constexpr std::int64_t kHandOverSlots = 2;

// Memory through which a MoE layer passes between the device and the host (hand_over.cl has its
// words): `shared` is seen by both while kernels run, `control` is the device's, zeroed at first.
struct HandOverMemory {
  cl_mem shared = nullptr;
  cl_mem control = nullptr;
  std::int64_t T = 0, D = 0, K = 0;
  std::int64_t payload = kHandOverPayload;  // first word of the layer's slot
};

// Words of a slot: from its first to the host's sum, and all.
constexpr std::int64_t HandOverInputWords(std::int64_t T, std::int64_t D, std::int64_t K) {
  return (T * (D + 2 * K) + 31) / 32 * 32;
}
constexpr std::int64_t HandOverSlotWords(std::int64_t T, std::int64_t D, std::int64_t K) {
  return HandOverInputWords(T, D, K) + (T * D + 31) / 32 * 32;
}
// All words of steps of at most T rows.
constexpr std::int64_t HandOverWords(std::int64_t T, std::int64_t D, std::int64_t K) {
  return kHandOverPayload + kHandOverSlots * HandOverSlotWords(T, D, K);
}

// Copies h, ids and weights where the host reads them, then says so.
struct HandOverPublishArgs {
  Span h;        // f32 [T, D]
  Span ids;      // i32 [T, K]
  Span weights;  // f32 [T, K]
  HandOverMemory memory;
  std::uint32_t sequence = 0;
};

// x[t, :] += sum[t, :] once the host has delivered `sequence`; waits for at most `turns` reads.
struct HandOverTakeArgs {
  HandOverMemory memory;
  Span x;
  std::int64_t x_stride = 0;
  std::uint32_t sequence = 0;
  std::uint64_t turns = 0;
};

// x[t, :] += sum[t, :] if word kHandOverGo of control is not 0.
struct HandOverAddArgs {
  Span sum;  // f32 [T, D]
  cl_mem control = nullptr;
  Span x;
  std::int64_t x_stride = 0;
  std::int64_t T = 0, D = 0;
};

}  // namespace tandem::cl
