#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tandem {

// Element types, named as safetensors names them. The first kNumWeightFormats are weight formats:
// kernels exist for them and tables are indexed by them.
enum class DType : std::uint8_t {
  kF32,
  kBF16,
  kF16,
  kF8E4M3,  // DeepSeek FP8: with one f32 scale (`weight_scale_inv`, multiplied) per 128x128 block
  kF64,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kOther,  // known to safetensors, of no use here
};
inline constexpr int kNumWeightFormats = 4;
inline constexpr int kFp8Block = 128;  // rows and columns that share one FP8 scale

constexpr bool IsWeightFormat(DType t) { return static_cast<int>(t) < kNumWeightFormats; }

// Bytes of one element; 0 for kOther.
std::size_t BytesOf(DType type);

// "F32", "BF16", "F16", "F8_E4M3", ...
std::string_view Name(DType type);

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
