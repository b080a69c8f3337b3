#pragma once

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cpu::ref {

// One struct per weight format: its storage and its value as f32, block scale apart.
struct F32Weight {
  using Bits = float;
  static constexpr bool kScaled = false;
  static float Decode(Bits bits) { return bits; }
};
struct Bf16Weight {
  using Bits = std::uint16_t;
  static constexpr bool kScaled = false;
  static float Decode(Bits bits) { return Bf16ToF32(bits); }
};
struct F16Weight {
  using Bits = std::uint16_t;
  static constexpr bool kScaled = false;
  static float Decode(Bits bits) { return F16ToF32(bits); }
};
struct F8Weight {
  using Bits = std::uint8_t;
  static constexpr bool kScaled = true;
  static float Decode(Bits bits) { return E4M3ToF32(bits); }
};

}  // namespace tandem::cpu::ref
