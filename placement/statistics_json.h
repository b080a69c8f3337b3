#pragma once

#include <cstdint>

namespace tandem {

// Counts beyond this are damage, and below it no sum over a layer overflows.
inline constexpr std::int64_t kMaxStatisticsTokens = std::int64_t{1} << 48;

}  // namespace tandem
