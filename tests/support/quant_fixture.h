#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "memory/dtype.h"
#include "tests/support/random.h"

// What the tests of the CPU's products with weights in block formats share.
namespace tandem::test {

inline constexpr float kUntouched = -12345.0F;

// A matrix of random codes, packed, and what it stands for.
struct PackedWeights {
  DType type;
  std::int64_t rows, cols;
  std::vector<float> values;
  std::vector<float> mins;  // the part of each value that its code does not scale
  std::vector<std::byte> storage;
  std::size_t start = 0;

  const std::byte* panels() const { return storage.data() + start; }
  float value(std::int64_t n, std::int64_t k) const {
    return values[static_cast<std::size_t>(n * cols + k)];
  }
  float min(std::int64_t n, std::int64_t k) const {
    return mins[static_cast<std::size_t>(n * cols + k)];
  }
};
PackedWeights RandomWeights(Random& random, DType type, std::int64_t rows, std::int64_t cols);
// Every byte of the codes is `fill`, every scale of one size.
PackedWeights FilledWeights(DType type, std::int64_t rows, std::int64_t cols, int fill);

// Rows of x and what quantize_rows makes of them; rows lie further apart than they are long.
struct QuantisedRows {
  std::int64_t rows, cols, stride;
  std::vector<float> x, scale;
  std::vector<std::int8_t> codes;
  std::vector<std::int32_t> sums;

  std::size_t at(std::int64_t t, std::int64_t k) const {
    return static_cast<std::size_t>(t * stride + k);
  }
  double exact(std::int64_t t, std::int64_t k) const { return x[at(t, k)]; }
  double step(std::int64_t t, std::int64_t k) const { return scale[at(t, k) / 32]; }
  double rounded(std::int64_t t, std::int64_t k) const {
    return static_cast<double>(codes[at(t, k)]) * step(t, k);
  }
};
void Quantise(cpu::Isa isa, QuantisedRows& x);
// Blocks of very different sizes, some of them zero.
QuantisedRows RandomRows(Random& random, std::int64_t rows, std::int64_t cols);

// All of x times all of w into y.
cpu::LinearArgs QuantArgs(const QuantisedRows& x, DType x_type, const PackedWeights& w,
                          std::vector<float>& y);
void CallLinear(cpu::Isa isa, DType format, const cpu::LinearArgs& args);

// For messages.
std::string CaseName(cpu::Isa isa, DType x_type, const QuantisedRows& x, const PackedWeights& w);

// The products in double, with three tolerances: what f32 summation may lose with each kind of x,
// and what rounding x to codes may change. A rounding is off by at most half a step and as good as
// independent of its neighbours: six deviations of their weighted sum. Codes and mins are summed
// apart, so both count for the size of the terms.
struct ExpectedProducts {
  std::vector<double> exact, exact_tolerance, rounded, rounded_tolerance, rounding;
};
ExpectedProducts NaiveProducts(const QuantisedRows& x, const PackedWeights& w);

// By block format.
class QuantLinear : public ::testing::TestWithParam<int> {
 protected:
  DType type() const { return static_cast<DType>(GetParam()); }
};

}  // namespace tandem::test
