#include "memory/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cmath>
#include <limits>

#include "memory/error.h"

namespace tandem {
namespace {

struct TypeRow {
  DType type;
  std::string_view name;
  std::int64_t elements;
  std::size_t bytes;
};
// In the order of the enumeration.
constexpr std::array<TypeRow, 25> kTypes{{
    {DType::kF32, "F32", 1, 4},
    {DType::kBF16, "BF16", 1, 2},
    {DType::kF16, "F16", 1, 2},
    {DType::kF8E4M3, "F8_E4M3", 1, 1},
    {DType::kQ8_0, "Q8_0", 32, 34},
    {DType::kQ4_0, "Q4_0", 32, 18},
    {DType::kQ4_1, "Q4_1", 32, 20},
    {DType::kQ5_0, "Q5_0", 32, 22},
    {DType::kQ5_1, "Q5_1", 32, 24},
    {DType::kIQ4_NL, "IQ4_NL", 32, 18},
    {DType::kMXFP4, "MXFP4", 32, 17},
    {DType::kQ2_K, "Q2_K", 256, 84},
    {DType::kQ3_K, "Q3_K", 256, 110},
    {DType::kQ4_K, "Q4_K", 256, 144},
    {DType::kQ5_K, "Q5_K", 256, 176},
    {DType::kQ6_K, "Q6_K", 256, 210},
    {DType::kIQ4_XS, "IQ4_XS", 256, 136},
    {DType::kF64, "F64", 1, 8},
    {DType::kI64, "I64", 1, 8},
    {DType::kI32, "I32", 1, 4},
    {DType::kI16, "I16", 1, 2},
    {DType::kI8, "I8", 1, 1},
    {DType::kU8, "U8", 1, 1},
    {DType::kBool, "BOOL", 1, 1},
    {DType::kOther, "OTHER", 1, 0},
}};

const TypeRow& Row(DType type) { return kTypes[static_cast<std::size_t>(type)]; }

bool SameWord(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) {
    return std::toupper(static_cast<unsigned char>(x)) ==
           std::toupper(static_cast<unsigned char>(y));
  });
}
constexpr std::string_view kUnusedTypes[] = {"F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
                                             "U16",     "U32",     "U64",         "C64",
                                             "F4",      "F6_E2M3", "F6_E3M2"};

}  // namespace

std::int64_t BlockElements(DType type) { return Row(type).elements; }

std::size_t BlockBytes(DType type) { return Row(type).bytes; }

std::size_t BytesOf(DType type) {
  TANDEM_CHECK(!IsBlockFormat(type));
  return Row(type).bytes;
}

std::uint64_t DataBytes(DType type, std::int64_t elements) {
  const TypeRow& row = Row(type);
  TANDEM_CHECK(elements % row.elements == 0);
  return static_cast<std::uint64_t>(elements / row.elements) * row.bytes;
}

double BytesPerElement(DType type) {
  const TypeRow& row = Row(type);
  return static_cast<double>(row.bytes) / static_cast<double>(row.elements);
}

std::string_view Name(DType type) { return Row(type).name; }

std::optional<DType> ParseWeightFormat(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (IsWeightFormat(row.type) && SameWord(row.name, name)) return row.type;
  }
  return std::nullopt;
}

std::optional<DType> ParseDType(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    const bool known = !IsBlockFormat(row.type) && row.type != DType::kOther;
    if (known && row.name == name) return row.type;
  }
  for (std::string_view unused : kUnusedTypes) {
    if (unused == name) return DType::kOther;
  }
  return std::nullopt;
}

float Bf16ToF32(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t F32ToBf16(float value) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((u >> 16) | 0x40);
  return static_cast<std::uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

float F16ToF32(std::uint16_t bits) {
  const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  if (exponent == 31) {
    return mantissa == 0 ? sign * std::numeric_limits<float>::infinity()
                         : std::numeric_limits<float>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

std::uint16_t F32ToF16(float value) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000);
  const float a = std::fabs(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7E00);
  if (a >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7C00);
  // nearbyint rounds to even in the default mode; the unit is 2^-24 below the smallest normal.
  const int exponent = a < 6.103515625e-05F ? -14 : std::ilogb(a);
  const auto units = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(a, 10 - exponent)));
  const std::uint32_t bits = a < 6.103515625e-05F
                                 ? units
                                 : (static_cast<std::uint32_t>(exponent + 15) << 10) + units - 1024;
  return static_cast<std::uint16_t>(sign | bits);
}

float E4M3ToF32(std::uint8_t bits) {
  const float sign = (bits & 0x80) != 0 ? -1.0F : 1.0F;
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

std::uint8_t F32ToE4M3(float value) {
  const auto sign = static_cast<std::uint8_t>(std::signbit(value) ? 0x80 : 0);
  if (std::isnan(value)) return sign | 0x7F;
  const float a = std::fmin(std::fabs(value), 448.0F);
  const int exponent = a < 0.015625F ? -6 : std::ilogb(a);
  const auto units = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(a, 3 - exponent)));
  const std::uint32_t bits =
      a < 0.015625F ? units : (static_cast<std::uint32_t>(exponent + 7) << 3) + units - 8;
  return static_cast<std::uint8_t>(sign | bits);
}

}  // namespace tandem
