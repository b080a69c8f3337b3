#include "cpu_kernels/kv_rows.h"

#include <cmath>
#include <cstring>

#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

constexpr float kMostE4M3 = 448;

float Largest(const float* x, std::int64_t n) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(x[i]));
  return largest;
}

// Scales lie at any even address.
template <class T>
T LoadAt(const std::uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}
template <class T>
void StoreAt(std::uint8_t* p, T value) {
  std::memcpy(p, &value, sizeof(T));
}

void EncodeBf16(const float* x, std::int64_t n, std::uint8_t* y) {
  for (std::int64_t i = 0; i < n; ++i) StoreAt(y + 2 * i, F32ToBf16(x[i]));
}

void EncodeF16(const float* x, std::int64_t n, std::uint8_t* y) {
  for (std::int64_t i = 0; i < n; ++i) {
    StoreAt(y + 2 * i, F32ToF16(std::fmax(-65504.0F, std::fmin(65504.0F, x[i]))));
  }
}

void EncodeQ8(const float* x, std::int64_t n, std::uint8_t* y) {
  for (std::int64_t i = 0; i < n; i += 32, y += 34) {
    const std::uint16_t scale = F32ToF16(std::fmin(65504.0F, Largest(x + i, 32) / 127));
    StoreAt(y, scale);
    const float d = F16ToF32(scale);
    const float inverse = d > 0 ? 1 / d : 0;
    for (int j = 0; j < 32; ++j) {
      const float code = std::fmax(-127.0F, std::fmin(127.0F, std::nearbyint(x[i + j] * inverse)));
      y[2 + j] = static_cast<std::uint8_t>(static_cast<std::int8_t>(code));
    }
  }
}

void EncodeF8(const KvLayout& l, const float* x, std::uint8_t* y) {
  std::uint8_t* scales = y + l.latent;
  for (std::int64_t i = 0; i < l.latent; i += 128, scales += 4) {
    const float d = Largest(x + i, 128) / kMostE4M3;
    StoreAt(scales, d);
    for (std::int64_t j = i; j < i + 128; ++j) y[j] = F32ToE4M3(d > 0 ? x[j] / d : 0);
  }
  EncodeBf16(x + l.latent, l.width - l.latent, scales);
}

void DecodeRow(const KvLayout& l, const std::uint8_t* row, float* out) {
  for (std::int64_t i = 0; i < l.width; ++i) {
    if (l.type == DType::kF32) {
      out[i] = LoadAt<float>(row + 4 * i);
    } else if (l.type == DType::kBF16) {
      out[i] = Bf16ToF32(LoadAt<std::uint16_t>(row + 2 * i));
    } else if (l.type == DType::kF16) {
      out[i] = F16ToF32(LoadAt<std::uint16_t>(row + 2 * i));
    } else if (l.type == DType::kQ8_0) {
      const std::uint8_t* block = row + i / 32 * 34;
      const auto code = static_cast<std::int8_t>(block[2 + i % 32]);
      out[i] = F16ToF32(LoadAt<std::uint16_t>(block)) * static_cast<float>(code);
    } else if (i < l.latent) {
      out[i] = E4M3ToF32(row[i]) * LoadAt<float>(row + l.latent + i / 128 * 4);
    } else {
      const std::uint8_t* rope = row + l.latent + l.latent / 128 * 4;
      out[i] = Bf16ToF32(LoadAt<std::uint16_t>(rope + 2 * (i - l.latent)));
    }
  }
}

}  // namespace

void KvEncode(const KvEncodeArgs& a) {
  const KvLayout& l = a.layout;
  auto* row = static_cast<std::uint8_t*>(a.rows);
  for (std::int64_t t = 0; t < a.n; ++t, row += KvRowBytes(l)) {
    const float* x = a.x + t * a.x_stride;
    if (l.type == DType::kF32) {
      std::memcpy(row, x, static_cast<std::size_t>(l.width) * sizeof(float));
    } else if (l.type == DType::kBF16) {
      EncodeBf16(x, l.width, row);
    } else if (l.type == DType::kF16) {
      EncodeF16(x, l.width, row);
    } else if (l.type == DType::kQ8_0) {
      EncodeQ8(x, l.width, row);
    } else {
      EncodeF8(l, x, row);
    }
  }
}

void KvDecode(const KvDecodeArgs& a) {
  const auto* row = static_cast<const std::uint8_t*>(a.rows);
  for (std::int64_t t = 0; t < a.n; ++t, row += KvRowBytes(a.layout)) {
    float values[kMostKvWidth];
    float* out = a.out_type == DType::kF32 ? static_cast<float*>(a.out) + t * a.out_stride : values;
    DecodeRow(a.layout, row, out);
    if (a.out_type == DType::kF32) continue;
    auto* rounded = static_cast<std::uint16_t*>(a.out) + t * a.out_stride;
    for (std::int64_t i = 0; i < a.layout.width; ++i) rounded[i] = F32ToBf16(out[i]);
  }
}

}  // namespace tandem::cpu::ref
