#include <algorithm>
#include <cmath>

#include "runtime/self_test_cases.h"

namespace tandem {
namespace {

constexpr std::int64_t kWidth = 512;

}  // namespace

void SelfTestCases::RmsNorm() {
  constexpr std::int64_t T = 5;
  constexpr float kEps = 1e-6F;
  const Floats x = Random(T * kWidth), w = Random(kWidth);
  const ClBuffer dx = Upload(x), dw = Upload(w), y = Results(T * kWidth);
  kernels_.RmsNorm({{dx.get(), 0}, kWidth, {dw.get(), 0}, {y.get(), 0}, kWidth, T, kWidth, kEps});
  Doubles want;
  for (std::int64_t t = 0; t < T; ++t) {
    double squares = 0;
    for (std::int64_t i = 0; i < kWidth; ++i) {
      squares += std::pow(static_cast<double>(x[Size(t * kWidth + i)]), 2);
    }
    const double scale = 1 / std::sqrt(squares / kWidth + kEps);
    for (std::int64_t i = 0; i < kWidth; ++i) {
      want.push_back(w[Size(i)] * scale * x[Size(t * kWidth + i)]);
    }
  }
  Add("rows", "norm", DType::kF32, kFloatBound, want, Download(y, T * kWidth));
}

void SelfTestCases::Rope() {
  constexpr std::int64_t T = 3, H = 2, d = 64;
  const Floats x = Random(T * H * d), angles = Random(T * d / 2, 3);
  Floats turns;
  for (const float angle : angles) {
    turns.push_back(std::cos(angle));
    turns.push_back(std::sin(angle));
  }
  const ClBuffer y = Upload(x), cos_sin = Upload(turns);
  cl::RopeArgs a;
  a.x = {y.get(), 0};
  a.row_stride = H * d;
  a.head_stride = d;
  a.heads = H;
  a.d = d;
  a.cos_sin = {cos_sin.get(), 0};
  a.T = T;
  kernels_.Rope(a);
  Doubles want;
  for (std::int64_t i = 0; i < T * H * d; i += 2) {
    const float* turn = turns.data() + i / (H * d) * d + i % d;
    const double first = x[Size(i)], second = x[Size(i + 1)];
    want.push_back(first * turn[0] - second * turn[1]);
    want.push_back(first * turn[1] + second * turn[0]);
  }
  Add("rows", "rotation", DType::kF32, kFloatBound, want, Download(y, T * H * d));
}

void SelfTestCases::Swiglu() {
  constexpr std::int64_t T = 3;
  const Floats gate = Random(T * kWidth), up = Random(T * kWidth);
  const ClBuffer dgate = Upload(gate), dup = Upload(up), y = Results(T * kWidth);
  kernels_.Swiglu(
      {{dgate.get(), 0}, kWidth, {dup.get(), 0}, kWidth, {y.get(), 0}, kWidth, T, kWidth});
  Doubles want;
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i];
    want.push_back(g / (1 + std::exp(-g)) * up[i]);
  }
  Add("rows", "SwiGLU", DType::kF32, kFloatBound, want, Download(y, T * kWidth));
}

void SelfTestCases::Sum() {
  const Floats x = Random(kWidth), before = Random(kWidth);
  const ClBuffer dx = Upload(x), y = Upload(before);
  kernels_.Add({{dx.get(), 0}, {y.get(), 0}, kWidth});
  Doubles want;
  for (std::size_t i = 0; i < x.size(); ++i) {
    want.push_back(static_cast<double>(x[i]) + before[i]);
  }
  Add("rows", "sum", DType::kF32, kFloatBound, want, Download(y, kWidth));
}

// The place of the largest, and its value.
void SelfTestCases::Largest() {
  constexpr std::int64_t kLogits = 5000;
  Floats logits = Random(kLogits);
  const auto largest = static_cast<std::int64_t>(random_() % kLogits);
  logits[Size(largest)] = 2;
  const ClBuffer dlogits = Upload(logits), best = Results(2 * cl::kArgmaxParts);
  kernels_.Argmax({{dlogits.get(), 0}, 1, kLogits, best.get()});
  Floats got{0, std::numeric_limits<float>::quiet_NaN()};
  for (const cl::ArgmaxPart& part : Download<cl::ArgmaxPart>(best, cl::kArgmaxParts)) {
    if (!(part.value <= got[1])) got = {static_cast<float>(part.id), part.value};
  }
  Add("rows", "largest logit", DType::kF32, 0, {static_cast<double>(largest), 2}, got);
}

void SelfTestCases::RowWise() {
  RmsNorm();
  Rope();
  Swiglu();
  Sum();
  Largest();
}

}  // namespace tandem
