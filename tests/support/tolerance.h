#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>

#include "memory/dtype.h"

namespace tandem::test {

// Unit roundoff: the largest relative error of rounding to the nearest value of this type.
double UnitRoundoff(DType type);

// What f32 summation of `terms` products may lose, relative to the sum of their magnitudes: the
// errors of a chain of that many roundings add up like a random walk; four times its deviation.
double SumTolerance(std::int64_t terms);

// |got[i] - want[i]| <= tolerance[i] for all i; the message names the worst index with both values.
// A NaN in `got` always fails.
::testing::AssertionResult AllWithin(std::span<const float> got, std::span<const double> want,
                                     std::span<const double> tolerance);

// Units in the last place of f32 between two values.
double UlpDistance(float a, float b);

}  // namespace tandem::test
