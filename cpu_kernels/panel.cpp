#include "cpu_kernels/panel.h"

#include <bit>
#include <cstring>

#include "memory/error.h"

// The slow, plain reading of the layout: what every kernel must agree with.

namespace tandem::cpu {
namespace {

int Code(const Codes4& q, int r, int k) {
  const int quad = k / 4;
  const int byte = q[quad % 4][r][k % 4];
  return quad < 4 ? byte & 15 : byte >> 4;
}
int Code(const Codes2& q, int r, int k) {
  const int quad = k / 4;
  return q[quad / 4][r][k % 4] >> (2 * (quad % 4)) & 3;
}
int Code(const Codes1& q, int r, int k) { return q[r][k % 4] >> (k / 4) & 1; }

// Value of row r and column k of a unit.
float Value(const PanelQ8_0& p, int r, int k) {
  return F16ToF32(p.d[r]) * static_cast<float>(p.q[k / 4][r][k % 4] - 128);
}
float Value(const PanelQ4_0& p, int r, int k) {
  return F16ToF32(p.d[r]) * static_cast<float>(Code(p.q, r, k) - 8);
}
float Value(const PanelQ4_1& p, int r, int k) {
  return F16ToF32(p.d[r]) * static_cast<float>(Code(p.q, r, k)) + F16ToF32(p.m[r]);
}
float Value(const PanelQ5_0& p, int r, int k) {
  return F16ToF32(p.d[r]) * static_cast<float>((Code(p.q, r, k) | Code(p.qh, r, k) << 4) - 16);
}
float Value(const PanelQ5_1& p, int r, int k) {
  const int code = Code(p.q, r, k) | Code(p.qh, r, k) << 4;
  return F16ToF32(p.d[r]) * static_cast<float>(code) + F16ToF32(p.m[r]);
}
float Value(const PanelIQ4_NL& p, int r, int k) {
  return F16ToF32(p.d[r]) * static_cast<float>(kIq4Values[Code(p.q, r, k)]);
}
float Value(const PanelMXFP4& p, int r, int k) {
  // Half of 2^(e - 127), which is below the smallest normal number for e < 2.
  const std::uint32_t half = p.e[r] < 2 ? 0x00200000U << p.e[r] : (p.e[r] - 1U) << 23;
  return std::bit_cast<float>(half) * static_cast<float>(kE2m1Doubled[Code(p.q, r, k)]);
}
float Value(const PanelQ2_K& p, int r, int k) {
  const int scales = p.scales[k / 16][r];
  const float scale = F16ToF32(p.d[r]) * static_cast<float>(scales & 15);
  const float min = F16ToF32(p.dmin[r]) * static_cast<float>(scales >> 4);
  return scale * static_cast<float>(Code(p.q[k / 32], r, k % 32)) - min;
}
float Value(const PanelQ3_K& p, int r, int k) {
  const int run = k / 16;
  const int low = p.scales_l[run / 2][r] >> (run % 2 * 4) & 15;
  const int high = static_cast<int>(p.scales_h[r] >> (2 * run) & 3);
  const float scale = F16ToF32(p.d[r]) * static_cast<float>((low | high << 4) - 32);
  const int code = Code(p.q[k / 32], r, k % 32) | Code(p.qh[k / 32], r, k % 32) << 2;
  return scale * static_cast<float>(code - 4);
}

// Q4_K and Q5_K: d sc code - dmin m.
template <class Panel>
float OfPairScales(const Panel& p, int r, int run, int code) {
  const int low = p.scales_l[run][r];
  const int high = static_cast<int>(p.scales_h[r] >> (4 * run));
  const float scale = F16ToF32(p.d[r]) * static_cast<float>((low & 15) | (high & 3) << 4);
  const float min = F16ToF32(p.dmin[r]) * static_cast<float>(low >> 4 | (high >> 2 & 3) << 4);
  return scale * static_cast<float>(code) - min;
}
float Value(const PanelQ4_K& p, int r, int k) {
  return OfPairScales(p, r, k / 32, Code(p.q[k / 32], r, k % 32));
}
float Value(const PanelQ5_K& p, int r, int k) {
  const int run = k / 32;
  return OfPairScales(p, r, run, Code(p.q[run], r, k % 32) | Code(p.qh[run], r, k % 32) << 4);
}
float Value(const PanelQ6_K& p, int r, int k) {
  const float scale = F16ToF32(p.d[r]) * static_cast<float>(p.scales[k / 16][r]);
  const int code = Code(p.q[k / 32], r, k % 32) | Code(p.qh[k / 32], r, k % 32) << 4;
  return scale * static_cast<float>(code - 32);
}
float Value(const PanelIQ4_XS& p, int r, int k) {
  const int run = k / 32;
  const int low = p.scales_l[run / 2][r] >> (run % 2 * 4) & 15;
  const int high = p.scales_h[r] >> (2 * run) & 3;
  const float scale = F16ToF32(p.d[r]) * static_cast<float>((low | high << 4) - 32);
  return scale * static_cast<float>(kIq4Values[Code(p.q[run], r, k % 32)]);
}

template <class Panel>
void DecodeAll(DType type, const std::byte* panel, std::int64_t cols, float* out) {
  const std::int64_t width = BlockElements(type);
  TANDEM_CHECK(sizeof(Panel) == kPanelRows * BlockBytes(type) && cols % width == 0);
  for (std::int64_t k0 = 0; k0 < cols; k0 += width, panel += sizeof(Panel)) {
    const auto& unit = *reinterpret_cast<const Panel*>(panel);
    for (int r = 0; r < kPanelRows; ++r) {
      for (int k = 0; k < width; ++k) out[r * cols + k0 + k] = Value(unit, r, k);
    }
  }
}

}  // namespace

void DecodePanel(DType type, const std::byte* panel, std::int64_t cols, float* out) {
  // clang-format off
  switch (type) {
    case DType::kQ8_0: return DecodeAll<PanelQ8_0>(type, panel, cols, out);
    case DType::kQ4_0: return DecodeAll<PanelQ4_0>(type, panel, cols, out);
    case DType::kQ4_1: return DecodeAll<PanelQ4_1>(type, panel, cols, out);
    case DType::kQ5_0: return DecodeAll<PanelQ5_0>(type, panel, cols, out);
    case DType::kQ5_1: return DecodeAll<PanelQ5_1>(type, panel, cols, out);
    case DType::kIQ4_NL: return DecodeAll<PanelIQ4_NL>(type, panel, cols, out);
    case DType::kMXFP4: return DecodeAll<PanelMXFP4>(type, panel, cols, out);
    case DType::kQ2_K: return DecodeAll<PanelQ2_K>(type, panel, cols, out);
    case DType::kQ3_K: return DecodeAll<PanelQ3_K>(type, panel, cols, out);
    case DType::kQ4_K: return DecodeAll<PanelQ4_K>(type, panel, cols, out);
    case DType::kQ5_K: return DecodeAll<PanelQ5_K>(type, panel, cols, out);
    case DType::kQ6_K: return DecodeAll<PanelQ6_K>(type, panel, cols, out);
    case DType::kIQ4_XS: return DecodeAll<PanelIQ4_XS>(type, panel, cols, out);
    default: break;
  }
  // clang-format on
  TANDEM_CHECK(IsBlockFormat(type));
}

}  // namespace tandem::cpu
