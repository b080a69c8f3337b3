#include "model/finite.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "memory/blocks.h"
#include "memory/error.h"
#include "model/checkpoint.h"

namespace tandem {
namespace {

// Values are looked at in runs without an early exit, which the compiler turns into vectors.
constexpr std::size_t kRun = 4096;

// Of an IEEE type: all bits of the exponent set means NaN or infinity.
template <class Bits>
std::int64_t FirstOfValues(std::span<const std::byte> bytes, Bits exponent) {
  const std::size_t count = bytes.size() / sizeof(Bits);
  Bits values[kRun];
  for (std::size_t first = 0; first < count; first += kRun) {
    const std::size_t run = std::min(kRun, count - first);
    std::memcpy(values, bytes.data() + first * sizeof(Bits), run * sizeof(Bits));
    bool found = false;
    for (std::size_t i = 0; i < run; ++i) found |= (values[i] & exponent) == exponent;
    for (std::size_t i = 0; found && i < run; ++i) {
      if ((values[i] & exponent) == exponent) return static_cast<std::int64_t>(first + i);
    }
  }
  return -1;
}

// Of a block format with f16 scales at these places.
std::int64_t FirstOfBlocks(std::span<const std::byte> bytes, std::size_t block_bytes,
                           std::initializer_list<std::size_t> scales) {
  for (std::size_t at = 0; at + block_bytes <= bytes.size(); at += block_bytes) {
    for (const std::size_t place : scales) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, bytes.data() + at + place, sizeof(bits));
      if ((bits & 0x7C00) == 0x7C00) return static_cast<std::int64_t>(at / block_bytes);
    }
  }
  return -1;
}

std::int64_t FirstOfMxfp4(std::span<const std::byte> bytes) {
  constexpr std::byte kNan{0xFF};  // E8M0 has no other value that is not a number
  for (std::size_t at = offsetof(BlockMXFP4, e); at < bytes.size(); at += sizeof(BlockMXFP4)) {
    if (bytes[at] == kNan) return static_cast<std::int64_t>(at / sizeof(BlockMXFP4));
  }
  return -1;
}

}  // namespace

bool CanBeNotFinite(DType format) { return IsWeightFormat(format) || format == DType::kF64; }

std::int64_t FirstNotFinite(DType format, std::span<const std::byte> bytes) {
  const auto blocks = [&](std::initializer_list<std::size_t> scales) {
    return FirstOfBlocks(bytes, BlockBytes(format), scales);
  };
  switch (format) {
    case DType::kF64:
      return FirstOfValues<std::uint64_t>(bytes, std::uint64_t{0x7FF} << 52);
    case DType::kF32:
      return FirstOfValues<std::uint32_t>(bytes, 0x7F800000);
    case DType::kBF16:
      return FirstOfValues<std::uint16_t>(bytes, 0x7F80);
    case DType::kF16:
      return FirstOfValues<std::uint16_t>(bytes, 0x7C00);
    case DType::kF8E4M3: {
      const std::size_t at = FindFp8Nan(bytes);
      return at == bytes.size() ? -1 : static_cast<std::int64_t>(at);
    }
    case DType::kMXFP4:
      return FirstOfMxfp4(bytes);
    case DType::kQ4_1:
      return blocks({offsetof(BlockQ4_1, d), offsetof(BlockQ4_1, m)});
    case DType::kQ5_1:
      return blocks({offsetof(BlockQ5_1, d), offsetof(BlockQ5_1, m)});
    case DType::kQ2_K:
      return blocks({offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)});
    case DType::kQ3_K:
      return blocks({offsetof(BlockQ3_K, d)});
    case DType::kQ4_K:
      return blocks({offsetof(BlockQ4_K, d), offsetof(BlockQ4_K, dmin)});
    case DType::kQ5_K:
      return blocks({offsetof(BlockQ5_K, d), offsetof(BlockQ5_K, dmin)});
    case DType::kQ6_K:
      return blocks({offsetof(BlockQ6_K, d)});
    default:
      TANDEM_CHECK(IsBlockFormat(format));
      return blocks({0});  // Q8_0, Q4_0, Q5_0, IQ4_NL, IQ4_XS begin with their only scale
  }
}

}  // namespace tandem
