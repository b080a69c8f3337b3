#include <cstddef>

#include "cpu_kernels/linear.h"
#include "cpu_kernels/panel.h"
#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

constexpr std::int64_t kMaxWidth = 256;  // columns of a unit
constexpr std::int64_t kRows = 32;       // rows of x that share one decoded unit

// Columns [k0, k0 + width) of one row of x as f32.
void LoadX(const LinearArgs& a, std::int64_t t, std::int64_t k0, std::int64_t width, float* out) {
  const std::int64_t row = a.x_rows != nullptr ? a.x_rows[t] : t;
  const std::int64_t start = row * a.x_stride + k0;
  if (a.x_type == DType::kF32) {
    for (std::int64_t k = 0; k < width; ++k) out[k] = static_cast<const float*>(a.x)[start + k];
    return;
  }
  const auto* codes = static_cast<const std::int8_t*>(a.x) + start;
  const float* scales = a.x_scale + start / 32;
  for (std::int64_t k = 0; k < width; ++k) out[k] = static_cast<float>(codes[k]) * scales[k / 32];
}

// One unit times rows [t0, t1) of x. A partial sum per unit keeps the rounding error near that of
// the vector kernels.
void AddUnit(const LinearArgs& a, std::int64_t t0, std::int64_t t1, std::int64_t k0,
             std::int64_t width, const float* w, float (*sums)[kPanelRows]) {
  float x[kMaxWidth];
  for (std::int64_t t = t0; t < t1; ++t) {
    LoadX(a, t, k0, width, x);
    for (std::int64_t r = 0; r < kPanelRows; ++r) {
      float sum = 0;
      for (std::int64_t k = 0; k < width; ++k) sum += x[k] * w[r * width + k];
      sums[t - t0][r] += sum;
    }
  }
}

void OnePanel(DType type, const LinearArgs& a, std::int64_t n, std::int64_t t0, std::int64_t t1) {
  const std::int64_t width = BlockElements(type);
  const auto* unit = static_cast<const std::byte*>(a.w) + PackedBytes(type, n, a.K);
  float w[kPanelRows * kMaxWidth];
  float sums[kRows][kPanelRows] = {};
  for (std::int64_t k0 = 0; k0 < a.K; k0 += width, unit += PackedBytes(type, kPanelRows, width)) {
    DecodePanel(type, unit, width, w);
    AddUnit(a, t0, t1, k0, width, w, sums);
  }
  for (std::int64_t t = t0; t < t1; ++t) {
    float* y = a.y + (a.y_rows != nullptr ? a.y_rows[t] : t) * a.y_stride;
    for (std::int64_t r = 0; r < kPanelRows && n + r < a.n1; ++r) {
      y[n + r] = a.accumulate ? y[n + r] + sums[t - t0][r] : sums[t - t0][r];
    }
  }
}

void Linear(DType type, const LinearArgs& a) {
  for (std::int64_t t0 = 0; t0 < a.T; t0 += kRows) {
    const std::int64_t t1 = a.T - t0 < kRows ? a.T : t0 + kRows;
    for (std::int64_t n = a.n0; n < a.n1; n += kPanelRows) OnePanel(type, a, n, t0, t1);
  }
}

}  // namespace

void LinearQ8_0(const LinearArgs& args) { Linear(DType::kQ8_0, args); }
void LinearQ4_0(const LinearArgs& args) { Linear(DType::kQ4_0, args); }
void LinearQ4_1(const LinearArgs& args) { Linear(DType::kQ4_1, args); }
void LinearQ5_0(const LinearArgs& args) { Linear(DType::kQ5_0, args); }
void LinearQ5_1(const LinearArgs& args) { Linear(DType::kQ5_1, args); }
void LinearIQ4_NL(const LinearArgs& args) { Linear(DType::kIQ4_NL, args); }
void LinearMXFP4(const LinearArgs& args) { Linear(DType::kMXFP4, args); }
void LinearQ2_K(const LinearArgs& args) { Linear(DType::kQ2_K, args); }
void LinearQ3_K(const LinearArgs& args) { Linear(DType::kQ3_K, args); }
void LinearQ4_K(const LinearArgs& args) { Linear(DType::kQ4_K, args); }
void LinearQ5_K(const LinearArgs& args) { Linear(DType::kQ5_K, args); }
void LinearQ6_K(const LinearArgs& args) { Linear(DType::kQ6_K, args); }
void LinearIQ4_XS(const LinearArgs& args) { Linear(DType::kIQ4_XS, args); }

}  // namespace tandem::cpu::ref
