#pragma once

#include <cstdint>

// What the shared bodies of the vector kernels (linear_body.h, ...) have in common. In an unnamed
// namespace: each ISA folder compiles its own copy, and no symbol may leave the object file.

// Inlined in unoptimised builds too: the register blocking needs it.
#define TANDEM_INLINE inline __attribute__((always_inline))

namespace tandem::cpu {
namespace {

TANDEM_INLINE std::int64_t Min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// The last elements of a row, padded with zeros (zero is all bits zero in every format).
template <class Bits, int kCount>
struct Padded {
  Bits bits[kCount];
  TANDEM_INLINE void Fill(const Bits* row, std::int64_t count) {
    for (std::int64_t i = 0; i < kCount; ++i) bits[i] = i < count ? row[i] : Bits{};
  }
};

}  // namespace
}  // namespace tandem::cpu
