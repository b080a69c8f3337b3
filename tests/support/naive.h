#pragma once

#include <cstdint>
#include <vector>

#include "memory/dtype.h"
#include "tests/support/random.h"

namespace tandem::test {

// A matrix [rows, cols] in a storage format, with FP8 block scales where the format has them.
struct Matrix {
  DType type = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<std::uint8_t> bytes;
  std::vector<float> scales;  // FP8: [ceil((rows + scale_row0) / 128), ceil(cols / 128)]
  std::int64_t scale_stride = 0;
  std::int64_t scale_row0 = 0;

  const void* data() const { return bytes.data(); }
  double At(std::int64_t row, std::int64_t col) const;  // with its block scale
  void Set(std::int64_t row, std::int64_t col, float value);
};

// Zeros; scales are 1.
Matrix MakeMatrix(DType type, std::int64_t rows, std::int64_t cols, std::int64_t scale_row0 = 0);
// Uniform in [-1, 1] before rounding to the type; FP8 uses its whole range and random scales.
Matrix RandomMatrix(Random& random, DType type, std::int64_t rows, std::int64_t cols,
                    std::int64_t scale_row0 = 0);

struct DotResult {
  double sum = 0;
  double magnitude = 0;  // of the terms
};
// Row `a_row` of a times row `b_row` of b, in double.
DotResult Dot(const Matrix& a, std::int64_t a_row, const Matrix& b, std::int64_t b_row);

}  // namespace tandem::test
