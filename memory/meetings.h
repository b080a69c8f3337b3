#pragma once

#include <algorithm>
#include <cstdint>

namespace tandem {

// Memory by which work-groups of a launch meet (cl_kernels/arrive.cl), once for each device:
// counters, and sums in f32 that they keep for the last one, as many as the largest buffer has room
// for.
inline constexpr std::int64_t kMeetingCounters = 256;

// In 4 bytes, counters and sums.
constexpr std::int64_t MeetingWords(std::uint64_t max_alloc_bytes) {
  constexpr std::int64_t kMostSums = 32768;
  const auto words = static_cast<std::int64_t>(max_alloc_bytes / 4);
  return std::clamp(words, kMeetingCounters, kMeetingCounters + kMostSums);
}

}  // namespace tandem
