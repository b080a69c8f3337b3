#pragma once

#include <cstdint>
#include <string>

namespace tandem {

// Counts beyond this are damage, and below it no sum over a layer overflows.
inline constexpr std::int64_t kMaxStatisticsTokens = std::int64_t{1} << 48;

// A name as a JSON string: for the file, and for messages, which are one line whatever it holds.
std::string QuotedName(const std::string& name);

}  // namespace tandem
