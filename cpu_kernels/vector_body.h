#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/vector_ops.h"

// The one body of the vectorised element-wise kernels; S as in linear_body.h.

namespace tandem::cpu {
namespace {

// e^x within 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 7 for e^r, times
// 2^n. The clamp keeps n in reach of ScaleByPowerOf2; its ends are 0 and infinity. A NaN stays.
template <class S>
TANDEM_INLINE typename S::F Exp(typename S::F x) {
  using F = typename S::F;
  x = S::Min(S::Set1(89.0F), S::Max(S::Set1(-105.0F), x));
  const F n = S::Round(S::Mul(x, S::Set1(1.44269504F)));
  F r = S::Fma(n, S::Set1(-0.693359375F), x);  // ln 2 in two parts; n times the first is exact
  r = S::Fma(n, S::Set1(2.12194440e-4F), r);
  F p = S::Set1(1.9841270e-4F);
  p = S::Fma(p, r, S::Set1(1.3888889e-3F));
  p = S::Fma(p, r, S::Set1(8.3333333e-3F));
  p = S::Fma(p, r, S::Set1(4.1666667e-2F));
  p = S::Fma(p, r, S::Set1(1.6666667e-1F));
  p = S::Fma(p, r, S::Set1(0.5F));
  p = S::Fma(S::Mul(r, r), p, r);
  return S::ScaleByPowerOf2(S::Add(p, S::Set1(1.0F)), n);
}

template <class S>
TANDEM_INLINE typename S::F LoadPart(const float* p, std::int64_t count) {
  Padded<float, S::kLanes> part;
  part.Fill(p, count);
  return S::Load(part.bits);
}

template <class S>
TANDEM_INLINE void StorePart(float* p, typename S::F v, std::int64_t count) {
  float lanes[S::kLanes];
  S::Store(lanes, v);
  for (std::int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

template <class S>
TANDEM_INLINE void StorePart(std::uint16_t* p, typename S::F v, std::int64_t count) {
  std::uint16_t lanes[S::kLanes];
  S::StoreBf16(lanes, v);
  for (std::int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

template <class S>
TANDEM_INLINE void StoreAs(float* p, typename S::F v) {
  S::Store(p, v);
}

template <class S>
TANDEM_INLINE void StoreAs(std::uint16_t* p, typename S::F v) {
  S::StoreBf16(p, v);
}

// Four partial sums hide the latency of the addition.
template <class S>
float SumOfSquares(const float* x, std::int64_t n) {
  typename S::F sums[4] = {S::Zero(), S::Zero(), S::Zero(), S::Zero()};
  std::int64_t i = 0;
  for (; i + 4 * S::kLanes <= n; i += 4 * S::kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const typename S::F v = S::Load(x + i + j * S::kLanes);
      sums[j] = S::Fma(v, v, sums[j]);
    }
  }
  for (; i < n; i += S::kLanes) {
    const typename S::F v = LoadPart<S>(x + i, Min(S::kLanes, n - i));
    sums[0] = S::Fma(v, v, sums[0]);
  }
  return S::Sum(S::Add(S::Add(sums[0], sums[1]), S::Add(sums[2], sums[3])));
}

template <class S>
void RmsNormOf(const RmsNormArgs& a) {
  for (std::int64_t t = 0; t < a.T; ++t) {
    const float* x = a.x + t * a.x_stride;
    float* y = a.y + t * a.y_stride;
    const float mean = SumOfSquares<S>(x, a.D) / static_cast<float>(a.D);
    const typename S::F inverse = S::Set1(1.0F / S::SqrtOne(mean + a.eps));
    std::int64_t i = 0;
    for (; i + S::kLanes <= a.D; i += S::kLanes) {
      S::Store(y + i, S::Mul(S::Load(a.w + i), S::Mul(S::Load(x + i), inverse)));
    }
    if (i < a.D) {
      const typename S::F v = S::Mul(LoadPart<S>(x + i, a.D - i), inverse);
      StorePart<S>(y + i, S::Mul(LoadPart<S>(a.w + i, a.D - i), v), a.D - i);
    }
  }
}

template <class S>
TANDEM_INLINE typename S::F SwigluOne(typename S::F gate, typename S::F up, typename S::F scale) {
  const typename S::F e = Exp<S>(S::Sub(S::Zero(), gate));
  const typename S::F silu = S::Div(gate, S::Add(S::Set1(1.0F), e));
  return S::Mul(scale, S::Mul(silu, up));
}

template <class S, class Y>
void SwigluRow(const float* gate, const float* up, float row_scale, Y* y, std::int64_t n) {
  const typename S::F scale = S::Set1(row_scale);
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) {
    StoreAs<S>(y + i, SwigluOne<S>(S::Load(gate + i), S::Load(up + i), scale));
  }
  if (i < n) {
    const typename S::F v =
        SwigluOne<S>(LoadPart<S>(gate + i, n - i), LoadPart<S>(up + i, n - i), scale);
    StorePart<S>(y + i, v, n - i);
  }
}

template <class S>
void SwigluOf(const SwigluArgs& a) {
  for (std::int64_t t = 0; t < a.T; ++t) {
    const float* gate = a.gate + t * a.gate_stride;
    const float* up = a.up + t * a.up_stride;
    const float scale = a.row_scale != nullptr ? a.row_scale[t] : 1.0F;
    const std::int64_t start = t * a.y_stride;
    if (a.y_type == DType::kBF16) {
      SwigluRow<S>(gate, up, scale, static_cast<std::uint16_t*>(a.y) + start, a.F);
    } else {
      SwigluRow<S>(gate, up, scale, static_cast<float*>(a.y) + start, a.F);
    }
  }
}

TANDEM_INLINE void RotatePair(float& a, float& b, const float* cos_sin) {
  const float rotated = a * cos_sin[0] - b * cos_sin[1];
  b = a * cos_sin[1] + b * cos_sin[0];
  a = rotated;
}

template <class S>
void RotateInterleaved(float* x, const float* cos_sin, std::int64_t d) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= d; i += S::kLanes) {
    S::Store(x + i, S::RotatePairs(S::Load(x + i), S::Load(cos_sin + i)));
  }
  for (; i + 1 < d; i += 2) RotatePair(x[i], x[i + 1], cos_sin + i);
}

template <class S>
void RotateHalves(float* x, const float* cos_sin, std::int64_t half) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= half; i += S::kLanes) {
    const typename S::Pair cs = S::LoadDeinterleaved(cos_sin + 2 * i);
    const typename S::F a = S::Load(x + i);
    const typename S::F b = S::Load(x + i + half);
    S::Store(x + i, S::Sub(S::Mul(a, cs.low), S::Mul(b, cs.high)));
    S::Store(x + i + half, S::Add(S::Mul(a, cs.high), S::Mul(b, cs.low)));
  }
  for (; i < half; ++i) RotatePair(x[i], x[i + half], cos_sin + 2 * i);
}

template <class S>
void RopeOf(const RopeArgs& a) {
  for (std::int64_t h = 0; h < a.heads; ++h) {
    float* x = a.x + h * a.head_stride;
    if (a.layout == RopeLayout::kInterleaved) {
      RotateInterleaved<S>(x, a.cos_sin, a.d / 2 * 2);
    } else {
      RotateHalves<S>(x, a.cos_sin, a.d / 2);
    }
  }
}

template <class S>
void ToBf16Of(const ConvertArgs& a) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= a.n; i += S::kLanes) S::StoreBf16(a.y + i, S::Load(a.x + i));
  if (i < a.n) StorePart<S>(a.y + i, LoadPart<S>(a.x + i, a.n - i), a.n - i);
}

template <class S>
void ToF16Of(const ConvertArgs& a) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= a.n; i += S::kLanes) S::StoreF16(a.y + i, S::Load(a.x + i));
  if (i == a.n) return;
  std::uint16_t rest[S::kLanes];
  S::StoreF16(rest, LoadPart<S>(a.x + i, a.n - i));
  for (std::int64_t j = 0; i + j < a.n; ++j) a.y[i + j] = rest[j];
}

template <class S, class W>
void WidenRow(const typename W::Bits* w, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) S::Store(y + i, W::One(w + i));
  if (i < n) {
    Padded<typename W::Bits, S::kLanes> part;
    part.Fill(w + i, n - i);
    StorePart<S>(y + i, W::One(part.bits), n - i);
  }
}

template <class S, class F32, class Bf16, class F16>
void WidenOf(const WidenArgs& a) {
  if (a.w_type == DType::kF32) {
    WidenRow<S, F32>(static_cast<const float*>(a.w), a.y, a.n);
  } else if (a.w_type == DType::kBF16) {
    WidenRow<S, Bf16>(static_cast<const std::uint16_t*>(a.w), a.y, a.n);
  } else {
    WidenRow<S, F16>(static_cast<const std::uint16_t*>(a.w), a.y, a.n);
  }
}

template <class S>
void AddOf(const AddArgs& a) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= a.n; i += S::kLanes) {
    S::Store(a.y + i, S::Add(S::Load(a.y + i), S::Load(a.x + i)));
  }
  for (; i < a.n; ++i) a.y[i] += a.x[i];
}

}  // namespace
}  // namespace tandem::cpu
