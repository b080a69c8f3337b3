#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace tandem::test {

// The same numbers on every machine for the same seed (std distributions differ between libraries).
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::int64_t Integer(std::int64_t low, std::int64_t high);  // in [low, high]
  float Uniform(float low, float high);
  std::vector<float> Uniforms(std::int64_t count, float low, float high);

 private:
  std::mt19937_64 engine_;
};

}  // namespace tandem::test
