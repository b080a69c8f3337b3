#include "tests/support/random.h"

namespace tandem::test {

std::int64_t Random::Integer(std::int64_t low, std::int64_t high) {
  return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
}

float Random::Uniform(float low, float high) {
  const float unit = static_cast<float>(engine_() >> 40) * 0x1p-24F;
  return low + (high - low) * unit;
}

std::vector<float> Random::Uniforms(std::int64_t count, float low, float high) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = Uniform(low, high);
  return values;
}

}  // namespace tandem::test
