#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/support/cl_fixture.h"

// x in e4m3 as cl_kernels/e4m3.cl has it, in double precision.
namespace tandem::test {

inline constexpr std::int64_t kE4m3Block = 128;

// Of an exact v, to nearest even.
inline std::uint8_t E4m3Of(double v) {
  const double size = std::min(std::fabs(v), 448.0);
  const int exponent = std::max(size > 0 ? std::ilogb(size) : -6, -6);
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(size, 3 - exponent)));
  const int code = std::min((exponent + 6) * 8 + units, 0x7e);
  return static_cast<std::uint8_t>(code | (std::signbit(v) ? 0x80 : 0));
}

inline double ValueOf(std::uint8_t code) {
  const int exponent = code >> 3 & 15;
  const int fraction = code & 7;
  const double size =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return (code & 0x80) != 0 ? -size : size;
}

// Rows of x as e4m3 with a scale for each block of columns.
struct Codes {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
};

inline Codes CodesOf(const std::vector<float>& x, std::int64_t at, std::int64_t stride,
                     std::int64_t T, std::int64_t K) {
  Codes out;
  const std::int64_t blocks = (K + kE4m3Block - 1) / kE4m3Block;
  out.codes.resize(static_cast<std::size_t>(T * K));
  out.scales.resize(static_cast<std::size_t>(T * blocks));
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      const float* const from = &x[static_cast<std::size_t>(at + t * stride)];
      float amax = 1e-4F;
      for (std::int64_t k = b * kE4m3Block; k < std::min(K, (b + 1) * kE4m3Block); ++k) {
        amax = std::max(amax, std::fabs(from[k]));
      }
      const float scale = amax / 448.0F;
      out.scales[static_cast<std::size_t>(t * blocks + b)] = scale;
      for (std::int64_t k = b * kE4m3Block; k < std::min(K, (b + 1) * kE4m3Block); ++k) {
        out.codes[static_cast<std::size_t>(t * K + k)] = E4m3Of(from[k] / scale);
      }
    }
  }
  return out;
}

// Some of very different sizes.
inline std::vector<float> ScaledInputs(std::size_t n, unsigned seed) {
  std::vector<float> x = RandomFloats(n, seed);
  for (std::size_t i = 0; i < n; ++i) {
    if (i / 300 % 3 == 1) x[i] = std::ldexp(x[i], static_cast<int>(i % 23) - 12);
  }
  return x;
}

}  // namespace tandem::test
