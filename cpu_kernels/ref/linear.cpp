#include "cpu_kernels/linear.h"

#include "cpu_kernels/ref/decode.h"
#include "cpu_kernels/ref/kernels.h"

namespace tandem::cpu::ref {
namespace {

constexpr std::int64_t kChunk = 128;  // the K of one FP8 block
constexpr std::int64_t kRows = 32;    // rows of x that share one decoded chunk of w

template <class W>
float ScaleOf(const LinearArgs& a, std::int64_t n, std::int64_t k) {
  if constexpr (!W::kScaled) return 1.0F;
  return a.w_scale[(n + a.scale_row0) / kFp8Block * a.scale_stride + k / kFp8Block];
}

template <class W>
void DecodeChunk(const LinearArgs& a, std::int64_t n, std::int64_t k0, std::int64_t count,
                 float* out) {
  const auto* row = static_cast<const typename W::Bits*>(a.w) + n * a.K + k0;
  const float scale = ScaleOf<W>(a, n, k0);
  for (std::int64_t k = 0; k < count; ++k) out[k] = W::Decode(row[k]) * scale;
}

float Dot(const LinearArgs& a, std::int64_t row, std::int64_t k0, std::int64_t count,
          const float* w) {
  const std::int64_t start = row * a.x_stride + k0;
  float sum = 0;
  if (a.x_type == DType::kF32) {
    const float* x = static_cast<const float*>(a.x) + start;
    for (std::int64_t k = 0; k < count; ++k) sum += x[k] * w[k];
  } else {
    const auto* x = static_cast<const std::uint16_t*>(a.x) + start;
    for (std::int64_t k = 0; k < count; ++k) sum += Bf16ToF32(x[k]) * w[k];
  }
  return sum;
}

// One weight row for the rows [t0, t1) of x: a partial sum per chunk of 128 keeps the rounding
// error near that of the vector kernels.
template <class W>
void OneWeightRow(const LinearArgs& a, std::int64_t n, std::int64_t t0, std::int64_t t1) {
  float w[kChunk];
  float sums[kRows] = {};
  for (std::int64_t k0 = 0; k0 < a.K; k0 += kChunk) {
    const std::int64_t count = a.K - k0 < kChunk ? a.K - k0 : kChunk;
    DecodeChunk<W>(a, n, k0, count, w);
    for (std::int64_t t = t0; t < t1; ++t) {
      sums[t - t0] += Dot(a, a.x_rows != nullptr ? a.x_rows[t] : t, k0, count, w);
    }
  }
  for (std::int64_t t = t0; t < t1; ++t) {
    float& y = a.y[(a.y_rows != nullptr ? a.y_rows[t] : t) * a.y_stride + n];
    y = a.accumulate ? y + sums[t - t0] : sums[t - t0];
  }
}

template <class W>
void Linear(const LinearArgs& a) {
  for (std::int64_t t0 = 0; t0 < a.T; t0 += kRows) {
    const std::int64_t t1 = a.T - t0 < kRows ? a.T : t0 + kRows;
    for (std::int64_t n = a.n0; n < a.n1; ++n) OneWeightRow<W>(a, n, t0, t1);
  }
}

template <class W>
void AddScaledRow(const LinearTransposedArgs& a, std::int64_t n, float x, float* y) {
  const auto* row = static_cast<const typename W::Bits*>(a.w) + n * a.C;
  for (std::int64_t c = 0; c < a.C; ++c) {
    float scale = 1;
    if constexpr (W::kScaled) {
      scale = a.w_scale[(n + a.scale_row0) / kFp8Block * a.scale_stride + c / kFp8Block];
    }
    y[c] += x * (W::Decode(row[c]) * scale);
  }
}

template <class W>
void LinearTransposed(const LinearTransposedArgs& a) {
  for (std::int64_t t = 0; t < a.T; ++t) {
    float* y = a.y + t * a.y_stride;
    for (std::int64_t c = 0; c < a.C; ++c) y[c] = 0;
    for (std::int64_t n = 0; n < a.N; ++n) {
      AddScaledRow<W>(a, a.n0 + n, a.x[t * a.x_stride + n], y);
    }
  }
}

}  // namespace

void LinearF32(const LinearArgs& args) { Linear<F32Weight>(args); }
void LinearBf16(const LinearArgs& args) { Linear<Bf16Weight>(args); }
void LinearF16(const LinearArgs& args) { Linear<F16Weight>(args); }
void LinearF8(const LinearArgs& args) { Linear<F8Weight>(args); }

void LinearTransposedF32(const LinearTransposedArgs& args) { LinearTransposed<F32Weight>(args); }
void LinearTransposedBf16(const LinearTransposedArgs& args) { LinearTransposed<Bf16Weight>(args); }
void LinearTransposedF16(const LinearTransposedArgs& args) { LinearTransposed<F16Weight>(args); }
void LinearTransposedF8(const LinearTransposedArgs& args) { LinearTransposed<F8Weight>(args); }

}  // namespace tandem::cpu::ref
