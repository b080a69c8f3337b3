#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/kv_rows.h"
#include "cpu_kernels/vector_body.h"

// The one body of the vectorised KV rows. Formats names the storage formats of an instruction set:
// F32, BF16, F16, F8 as in its simd.h, and Half, one f16 as f32.

namespace tandem::cpu {
namespace {

// Scales lie at any even address.
template <class T>
TANDEM_INLINE T LoadAt(const std::uint8_t* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof(T));
  return value;
}

template <class S, class Format>
void DecodeScalars(const void* row, std::int64_t n, float* out) {
  const auto* x = static_cast<const typename Format::Bits*>(row);
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) S::Store(out + i, Format::One(x + i));
  if (i == n) return;
  Padded<typename Format::Bits, S::kLanes> part;
  part.Fill(x + i, n - i);
  StorePart<S>(out + i, Format::One(part.bits), n - i);
}

template <class S, class Half>
void DecodeQ8(const std::uint8_t* row, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; i += 32, row += 34) {
    const float d = Half::One(LoadAt<std::uint16_t>(row));
    const auto* q = reinterpret_cast<const std::int8_t*>(row + 2);
    for (int j = 0; j < 32; ++j) out[i + j] = d * static_cast<float>(q[j]);
  }
}

template <class S, class Formats>
void DecodeF8(const KvLayout& l, const std::uint8_t* row, float* out) {
  const std::uint8_t* scales = row + l.latent;
  for (std::int64_t i = 0; i < l.latent; i += S::kLanes) {
    const float scale = LoadAt<float>(scales + i / 128 * 4);
    const typename S::F factor = S::Set1(scale * Formats::F8::kScaleFactor);
    S::Store(out + i, S::Mul(Formats::F8::One(row + i), factor));
  }
  const std::uint8_t* rope = scales + l.latent / 128 * 4;
  DecodeScalars<S, typename Formats::BF16>(rope, l.width - l.latent, out + l.latent);
}

template <class S, class Formats>
void DecodeRow(const KvLayout& l, const std::uint8_t* row, float* out) {
  switch (l.type) {
    case DType::kF32:
      return DecodeScalars<S, typename Formats::F32>(row, l.width, out);
    case DType::kBF16:
      return DecodeScalars<S, typename Formats::BF16>(row, l.width, out);
    case DType::kF16:
      return DecodeScalars<S, typename Formats::F16>(row, l.width, out);
    case DType::kQ8_0:
      return DecodeQ8<S, typename Formats::Half>(row, l.width, out);
    default:
      return DecodeF8<S, Formats>(l, row, out);
  }
}

template <class S>
void RoundRow(const float* x, std::int64_t n, std::uint16_t* y) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) S::StoreBf16(y + i, S::Load(x + i));
  if (i < n) StorePart<S>(y + i, LoadPart<S>(x + i, n - i), n - i);
}

template <class S, class Formats>
void KvDecodeOf(const KvDecodeArgs& a) {
  const auto* row = static_cast<const std::uint8_t*>(a.rows);
  const std::int64_t bytes = KvRowBytes(a.layout);
  for (std::int64_t t = 0; t < a.n; ++t, row += bytes) {
    if (a.out_type == DType::kF32) {
      DecodeRow<S, Formats>(a.layout, row, static_cast<float*>(a.out) + t * a.out_stride);
      continue;
    }
    auto* out = static_cast<std::uint16_t*>(a.out) + t * a.out_stride;
    if (a.layout.type == DType::kBF16) {
      __builtin_memcpy(out, row, static_cast<std::size_t>(bytes));
    } else {
      float values[kMostKvWidth];
      DecodeRow<S, Formats>(a.layout, row, values);
      RoundRow<S>(values, a.layout.width, out);
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
