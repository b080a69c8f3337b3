#pragma once

#include <CL/cl.h>

#include <cstdint>

#include "cl_kernels/span.h"

namespace tandem::cl {

// Memory through which a MoE layer passes between the device and the host (hand_over.cl has its
// words): `shared` is seen by both while kernels run, `control` is the device's, zeroed at first.
struct HandOverMemory {
  cl_mem shared = nullptr;
  cl_mem control = nullptr;
  std::int64_t T = 0, D = 0, K = 0;
};

inline constexpr std::int64_t kHandOverPublished = 0, kHandOverDelivered = 16,
                              kHandOverAbandoned = 17, kHandOverGaveUp = 32, kHandOverPayload = 64;
inline constexpr std::int64_t kHandOverGo = 2;  // of control
inline constexpr std::uint64_t kHandOverControlBytes = 64;
// The word where the host's sum begins, and behind its end.
constexpr std::int64_t HandOverSumWord(std::int64_t T, std::int64_t D, std::int64_t K) {
  return kHandOverPayload + (T * (D + 2 * K) + 31) / 32 * 32;
}
constexpr std::int64_t HandOverWords(std::int64_t T, std::int64_t D, std::int64_t K) {
  return HandOverSumWord(T, D, K) + T * D;
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
