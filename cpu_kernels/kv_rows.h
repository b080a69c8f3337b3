#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "memory/dtype.h"

namespace tandem::cpu {

// The widest row that q8_0, f8_e4m3 and decoding to bf16 take.
inline constexpr std::int64_t kMostKvWidth = 1024;

// How a token's row of `width` values (for MLA the normed latent of R values and the roped key)
// lies in the KV cache:
//   f32, bf16, f16 : the values
//   q8_0           : blocks of 32 values along the row: f16 scale, 32 int8 codes; width % 32 == 0
//   f8_e4m3        : R codes e4m3, one f32 scale for every 128 of them, then the roped key in bf16;
//                    R % 128 == 0. DeepSeek-V3.2's 656 bytes for R = 512 and 64 roped values.
struct KvLayout {
  DType type = DType::kF32;
  std::int64_t width = 0;
  std::int64_t latent = 0;  // R; f8_e4m3 only
};

TANDEM_INLINE constexpr std::int64_t KvRowBytes(const KvLayout& l) {
  switch (l.type) {
    case DType::kF32:
      return l.width * 4;
    case DType::kQ8_0:
      return l.width / 32 * 34;
    case DType::kF8E4M3:
      return l.latent + l.latent / 128 * 4 + (l.width - l.latent) * 2;
    default:
      return l.width * 2;
  }
}

// Rows from f32 into the cache, `rows` one after another: rounded to the nearest; the scale of a
// block is its largest magnitude over 127 (q8_0, rounded to f16) or over 448 (f8).
struct KvEncodeArgs {
  KvLayout layout;
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  void* rows = nullptr;
  std::int64_t n = 0;
};

// And back: values as f32, or rounded to bf16 (out_type).
struct KvDecodeArgs {
  KvLayout layout;
  const void* rows = nullptr;
  std::int64_t n = 0;
  void* out = nullptr;
  DType out_type = DType::kF32;
  std::int64_t out_stride = 0;
};

}  // namespace tandem::cpu
