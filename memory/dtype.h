#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tandem {

// Element types, named as safetensors and GGUF name them. The first kNumWeightFormats are weight
// formats: kernels exist for them and tables are indexed by them.
enum class DType : std::uint8_t {
  kF32,
  kBF16,
  kF16,
  kF8E4M3,  // DeepSeek FP8: with one f32 scale (`weight_scale_inv`, multiplied) per 128x128 block
  // Block formats of GGUF (memory/blocks.h): runs of 32 or 256 values of a row with their scales.
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kIQ4_NL,
  kMXFP4,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_XS,
  kF64,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kOther,  // known to safetensors, of no use here
};
inline constexpr int kNumScalarFormats = 4;  // of the weight formats, those without blocks
inline constexpr int kNumWeightFormats = 17;
inline constexpr int kFp8Block = 128;  // rows and columns that share one FP8 scale

constexpr bool IsWeightFormat(DType t) { return static_cast<int>(t) < kNumWeightFormats; }
constexpr bool IsBlockFormat(DType t) {
  return IsWeightFormat(t) && static_cast<int>(t) >= kNumScalarFormats;
}

// Values and bytes of one block; a scalar type is a block of one. 0 bytes for kOther.
std::int64_t BlockElements(DType type);
std::size_t BlockBytes(DType type);

// Bytes of one element of a scalar type. Asking for a block format is our own bug.
std::size_t BytesOf(DType type);

// Bytes of so many elements, which are whole blocks.
std::uint64_t DataBytes(DType type, std::int64_t elements);
// The same per element, a fraction for block formats: for estimates.
double BytesPerElement(DType type);

// "F32", "BF16", "F16", "F8_E4M3", "Q4_K", ...
std::string_view Name(DType type);

// From the name of a weight format in any case ("q4_k", "bf16", "f8_e4m3"); nullopt for others.
std::optional<DType> ParseWeightFormat(std::string_view name);

// From a safetensors dtype string; kOther for a type that safetensors has and Tandem does not use,
// nullopt for a word that is no dtype at all.
std::optional<DType> ParseDType(std::string_view name);

// Scalar conversions, exact where the target holds the value, round to nearest even elsewhere.
float Bf16ToF32(std::uint16_t bits);
std::uint16_t F32ToBf16(float value);
float F16ToF32(std::uint16_t bits);
std::uint16_t F32ToF16(float value);
float E4M3ToF32(std::uint8_t bits);   // e4m3fn: no infinities, NaN is 0x7F and 0xFF
std::uint8_t F32ToE4M3(float value);  // saturates at +-448, as the reference kernels do

// How a run treats activations.
enum class Precision : std::uint8_t {
  kExact,  // f32 on both sides, f32 KV cache
  kFast,   // kernels may round activations to bf16; f16 KV cache
};

}  // namespace tandem
