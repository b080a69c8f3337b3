#include "tests/support/tolerance.h"

#include <bit>
#include <cmath>

namespace tandem::test {

double UnitRoundoff(DType type) {
  switch (type) {
    case DType::kBF16:
      return 0x1p-8;
    case DType::kF16:
      return 0x1p-11;
    case DType::kF8E4M3:
      return 0x1p-4;
    default:
      return 0x1p-24;
  }
}

double SumTolerance(std::int64_t terms) {
  return 4 * UnitRoundoff(DType::kF32) * std::sqrt(static_cast<double>(terms) + 8);
}

::testing::AssertionResult AllWithin(std::span<const float> got, std::span<const double> want,
                                     std::span<const double> tolerance) {
  if (got.size() != want.size() || got.size() != tolerance.size()) {
    return ::testing::AssertionFailure() << "sizes " << got.size() << ", " << want.size() << ", "
                                         << tolerance.size() << " differ";
  }
  std::size_t worst = 0;
  double worst_excess = -1;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - want[i]);
    const double excess = std::isnan(error) ? HUGE_VAL : error - tolerance[i];
    if (excess > 0 && excess > worst_excess) {
      worst = i;
      worst_excess = excess;
    }
  }
  if (worst_excess < 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "worst at " << worst << ": got " << got[worst]
                                       << ", want " << want[worst] << " +- " << tolerance[worst];
}

double UlpDistance(float a, float b) {
  const auto ordered = [](float v) {
    const auto bits = std::bit_cast<std::int32_t>(v);
    return static_cast<double>(bits < 0 ? -static_cast<std::int64_t>(bits & 0x7FFFFFFF) : bits);
  };
  return std::fabs(ordered(a) - ordered(b));
}

}  // namespace tandem::test
