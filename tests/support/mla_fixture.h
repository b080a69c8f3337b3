#pragma once

#include "tests/support/cl_fixture.h"

// What the tests of MLA's kernels share: tokens of the cache, rotations, and devices' shapes.
namespace tandem::test {

inline constexpr std::int64_t kBlock = 64;

inline std::int64_t TokenBytes(DType type, std::int64_t R, std::int64_t d) {
  if (type == DType::kF8E4M3) return R + R / 32 + 2 * d;
  return static_cast<std::int64_t>(BytesOf(type)) * (R + d);
}

// Value i of a token as the cache has it.
inline double CacheValue(DType type, const std::uint8_t* token, std::int64_t i, std::int64_t R) {
  if (type != DType::kF8E4M3) {
    return DecodeWeight(type, token + i * static_cast<std::int64_t>(BytesOf(type)));
  }
  if (i >= R) return DecodeWeight(DType::kBF16, token + R + R / 32 + 2 * (i - R));
  float scale = 0;
  std::memcpy(&scale, token + R + i / 128 * 4, 4);
  return static_cast<double>(E4M3ToF32(token[i])) * scale;
}

// Pairs (cos, sin) of any angles.
inline std::vector<float> Rotations(std::int64_t T, std::int64_t d, unsigned seed = 31) {
  std::vector<float> cos_sin;
  for (const float angle : RandomFloats(static_cast<std::size_t>(T * d / 2), seed, 3.0F)) {
    cos_sin.push_back(std::cos(angle));
    cos_sin.push_back(std::sin(angle));
  }
  return cos_sin;
}

// Value i of rope(x), and the size of its terms.
inline Reference Roped(const float* x, const float* cos_sin, std::int64_t i) {
  const float* pair = x + i / 2 * 2;
  const float* turn = cos_sin + i / 2 * 2;
  Reference want;
  want.Add(pair[0], i % 2 == 0 ? turn[0] : turn[1]);
  want.Add(pair[1], i % 2 == 0 ? -turn[1] : turn[0]);
  return want;
}

inline cl::Span Whole(const ClBuffer& buffer) { return {buffer.get(), 0}; }

class MlaTest : public ClShapesTest {
 protected:
  // The compiler of PoCL 5 fails an assertion on work-group kernels with barriers in loops, which a
  // CPU device does not take.
  bool CannotCompileGroups() const {
    const ClDeviceInfo& info = device().info();
    return GetParam() == Shapes::kGpu && info.is_cpu && info.driver_version.starts_with("5.");
  }
};

}  // namespace tandem::test
