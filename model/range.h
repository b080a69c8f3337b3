#pragma once

#include <cstdint>

namespace tandem {

// What a number from a file may be, both ends included.
struct IntRange {
  std::int64_t low;
  std::int64_t high;
};
struct RealRange {
  double low;
  double high;
};

}  // namespace tandem
