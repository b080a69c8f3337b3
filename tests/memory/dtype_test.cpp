// ctest: unit
#include "memory/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace tandem {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::uint32_t Bits(float value) { return std::bit_cast<std::uint32_t>(value); }

// The value of a small float format by its definition, in double.
double Value(unsigned code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int mantissa = static_cast<int>(code & ((1U << mantissa_bits) - 1));
  const int exponent = static_cast<int>(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const bool negative = (code >> (mantissa_bits + exponent_bits)) != 0;
  const double fraction = mantissa / std::pow(2.0, mantissa_bits);
  const double value = exponent == 0 ? fraction * std::pow(2.0, 1 - bias)
                                     : (1 + fraction) * std::pow(2.0, exponent - bias);
  return negative ? -value : value;
}

TEST(DType, EveryE4M3CodeHasItsValueAndComesBack) {
  for (unsigned code = 0; code < 256; ++code) {
    const auto bits = static_cast<std::uint8_t>(code);
    const float got = E4M3ToF32(bits);
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(got)) << code;
      continue;
    }
    EXPECT_EQ(Bits(got), Bits(static_cast<float>(Value(code, 4, 3)))) << code;
    EXPECT_EQ(F32ToE4M3(got), bits) << code;
  }
}

TEST(DType, EveryF16CodeHasItsValueAndComesBack) {
  for (unsigned code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float got = F16ToF32(bits);
    const bool special = (code & 0x7C00) == 0x7C00;
    if (special && (code & 0x3FF) != 0) {
      ASSERT_TRUE(std::isnan(got)) << code;
      continue;
    }
    const double value =
        special ? ((code & 0x8000) != 0 ? -kInfinity : kInfinity) : Value(code, 5, 10);
    ASSERT_EQ(Bits(got), Bits(static_cast<float>(value))) << code;
    ASSERT_EQ(F32ToF16(got), bits) << code;
  }
}

TEST(DType, EveryBf16CodeHasItsValueAndComesBack) {
  for (unsigned code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float got = Bf16ToF32(bits);
    const bool special = (code & 0x7F80) == 0x7F80;
    if (special && (code & 0x7F) != 0) {
      ASSERT_TRUE(std::isnan(got)) << code;
      ASSERT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(got)))) << code;
      continue;
    }
    const double value =
        special ? ((code & 0x8000) != 0 ? -kInfinity : kInfinity) : Value(code, 8, 7);
    ASSERT_EQ(Bits(got), Bits(static_cast<float>(value))) << code;
    ASSERT_EQ(F32ToBf16(got), bits) << code;
  }
}

// Between every two neighbours: a tie goes to the even code, anything else to the nearer one.
template <class Code>
void CheckRounding(unsigned codes, float (*to_f32)(Code), Code (*from_f32)(float)) {
  for (unsigned code = 0; code + 1 < codes; ++code) {
    const auto low = static_cast<Code>(code);
    const auto high = static_cast<Code>(code + 1);
    const float middle = to_f32(low) / 2 + to_f32(high) / 2;
    ASSERT_EQ(from_f32(middle), code % 2 == 0 ? low : high) << code;
    ASSERT_EQ(from_f32(std::nextafter(middle, 0.0F)), low) << code;
    ASSERT_EQ(from_f32(std::nextafter(middle, kInfinity)), high) << code;
  }
}

TEST(DType, RoundsToNearestEven) {
  CheckRounding<std::uint8_t>(0x7F, E4M3ToF32, F32ToE4M3);
  CheckRounding<std::uint16_t>(0x7C00, F16ToF32, F32ToF16);
}

TEST(DType, Bf16RoundsToNearestEven) {
  for (unsigned code = 0; code < 0x7F7F; ++code) {
    const std::uint32_t middle = (code << 16) + 0x8000;
    const auto round = [](std::uint32_t bits) { return F32ToBf16(std::bit_cast<float>(bits)); };
    ASSERT_EQ(round(middle), code + code % 2) << code;
    ASSERT_EQ(round(middle - 1), code) << code;
    ASSERT_EQ(round(middle + 1), code + 1) << code;
  }
}

TEST(DType, LargeValuesSaturateOrOverflowAsTheFormatSays) {
  EXPECT_EQ(E4M3ToF32(F32ToE4M3(1e9F)), 448.0F);
  EXPECT_EQ(E4M3ToF32(F32ToE4M3(-kInfinity)), -448.0F);
  EXPECT_TRUE(std::isnan(E4M3ToF32(F32ToE4M3(std::nanf("")))));
  EXPECT_EQ(F16ToF32(F32ToF16(65519.0F)), 65504.0F);
  EXPECT_EQ(F16ToF32(F32ToF16(65520.0F)), kInfinity);
  EXPECT_EQ(Bf16ToF32(F32ToBf16(std::numeric_limits<float>::max())), kInfinity);
}

TEST(DType, NamesAreThoseOfSafetensors) {
  for (const DType type :
       {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kF64, DType::kI64,
        DType::kI32, DType::kI16, DType::kI8, DType::kU8, DType::kBool}) {
    EXPECT_EQ(ParseDType(Name(type)), type);
    EXPECT_GT(BytesOf(type), 0U);
  }
  EXPECT_EQ(ParseDType("F8_E5M2"), DType::kOther);
  EXPECT_EQ(ParseDType("bf16"), std::nullopt);
  EXPECT_EQ(ParseDType(""), std::nullopt);
  EXPECT_EQ(BytesOf(DType::kOther), 0U);
}

}  // namespace
}  // namespace tandem
