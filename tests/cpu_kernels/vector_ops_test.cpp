// ctest: unit
#include "cpu_kernels/vector_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::Random;

constexpr std::int64_t kSizes[] = {1, 7, 8, 15, 16, 17, 63, 64, 65, 127, 1408, 7168};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(RmsNorm, IsRightForAnyWidthAndInPlace) {
  for (const Isa isa : SupportedIsas()) {
    const KernelTable table = MakeKernelTable(isa);
    for (const std::int64_t D : kSizes) {
      Random random(static_cast<std::uint64_t>(D));
      const std::int64_t T = 3;
      const std::int64_t stride = D + 5;
      const std::vector<float> x = random.Uniforms(T * stride, -3, 3);
      const std::vector<float> w = random.Uniforms(D, 0.5F, 2);
      std::vector<float> y = x;
      table.rmsnorm({y.data(), stride, w.data(), y.data(), stride, T, D, 1e-6F});
      std::vector<double> want(x.begin(), x.end());
      std::vector<double> tolerance(want.size(), 0);
      for (std::int64_t t = 0; t < T; ++t) {
        double squares = 0;
        for (std::int64_t i = 0; i < D; ++i) squares += want[t * stride + i] * want[t * stride + i];
        const double scale = 1 / std::sqrt(squares / static_cast<double>(D) + 1e-6);
        for (std::int64_t i = 0; i < D; ++i) {
          want[t * stride + i] *= scale * w[i];
          tolerance[t * stride + i] =
              std::fabs(want[t * stride + i]) * (test::SumTolerance(D / 8) + 5 * 0x1p-24);
        }
      }
      EXPECT_TRUE(test::AllWithin(y, want, tolerance)) << Name(isa) << " D " << D;
    }
  }
}

float SwigluOf(float gate, float up, float scale) {
  return scale * (gate / (1.0F + std::exp(-gate)) * up);
}

SwigluArgs Args(const std::vector<float>& gate, const std::vector<float>& up, void* y) {
  SwigluArgs a;
  a.gate = gate.data();
  a.up = up.data();
  a.y = y;
  a.T = 1;
  a.F = static_cast<std::int64_t>(gate.size());
  return a;
}

TEST(Swiglu, StaysWithin4UlpOfTheFormulaOverTheWholeRange) {
  std::vector<float> gate;
  for (float v = -110; v < 110; v += 0.00731F) gate.push_back(v);
  const std::vector<float> up(gate.size(), 1.0F);
  for (const Isa isa : SupportedIsas()) {
    std::vector<float> y(gate.size());
    MakeKernelTable(isa).swiglu(Args(gate, up, y.data()));
    double worst = 0;
    float at = 0;
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double ulps = test::UlpDistance(y[i], SwigluOf(gate[i], 1, 1));
      if (ulps > worst) at = gate[i];
      worst = std::max(worst, ulps);
    }
    EXPECT_LE(worst, 4) << Name(isa) << " at gate " << at;
  }
}

TEST(Swiglu, KeepsZerosInfinitiesAndNan) {
  const std::vector<float> gate = {0.0F, -0.0F, kInfinity, 1e30F, -1e30F, kNan, 1e-40F, -1e-40F};
  const std::vector<float> up = {1, 1, 2, 1, 1, 1, 1, 1};
  for (const Isa isa : SupportedIsas()) {
    std::vector<float> y(gate.size());
    MakeKernelTable(isa).swiglu(Args(gate, up, y.data()));
    EXPECT_EQ(y[0], 0.0F) << Name(isa);
    EXPECT_EQ(y[1], 0.0F) << Name(isa);
    EXPECT_EQ(y[2], kInfinity) << Name(isa);
    EXPECT_EQ(y[3], 1e30F) << Name(isa);
    EXPECT_EQ(y[4], 0.0F) << Name(isa);
    EXPECT_TRUE(std::isnan(y[5])) << Name(isa);
    EXPECT_EQ(y[6], 5e-41F) << Name(isa) << ": subnormals are kept";
    EXPECT_EQ(y[7], -5e-41F) << Name(isa);
  }
}

TEST(Swiglu, ScalesRowsAndRoundsToBf16) {
  for (const Isa isa : SupportedIsas()) {
    for (const std::int64_t F : kSizes) {
      Random random(static_cast<std::uint64_t>(F));
      const std::int64_t stride = F + 3;
      const std::vector<float> gate = random.Uniforms(2 * stride, -8, 8);
      const std::vector<float> up = random.Uniforms(2 * stride, -2, 2);
      const float row_scale[] = {0.25F, 1.75F};
      std::vector<std::uint16_t> y(static_cast<std::size_t>(2 * stride), 0xABCD);
      SwigluArgs a = Args(gate, up, y.data());
      a.gate_stride = a.up_stride = a.y_stride = stride;
      a.row_scale = row_scale;
      a.y_type = DType::kBF16;
      a.T = 2;
      a.F = F;
      MakeKernelTable(isa).swiglu(a);
      for (std::int64_t i = 0; i < 2 * stride; ++i) {
        if (i % stride >= F) {
          EXPECT_EQ(y[i], 0xABCD) << Name(isa) << " wrote past the row";
          continue;
        }
        const float want = SwigluOf(gate[i], up[i], row_scale[i / stride]);
        const double limit = std::fabs(want) * (0x1p-8 + 8 * 0x1p-24);  // half an ulp of bf16
        EXPECT_NEAR(Bf16ToF32(y[i]), want, limit) << Name(isa) << " F " << F << " i " << i;
      }
    }
  }
}

void CheckRope(Isa isa, RopeLayout layout, std::int64_t d) {
  Random random(static_cast<std::uint64_t>(d));
  const std::int64_t heads = 3;
  const std::int64_t stride = d + 4;
  const std::vector<float> start = random.Uniforms(heads * stride, -2, 2);
  std::vector<float> cos_sin;
  for (std::int64_t i = 0; i < d / 2; ++i) {
    const float angle = random.Uniform(-3, 3);
    cos_sin.push_back(std::cos(angle));
    cos_sin.push_back(std::sin(angle));
  }
  std::vector<float> x = start;
  MakeKernelTable(isa).rope({x.data(), stride, heads, d, cos_sin.data(), layout});
  std::vector<double> want(start.begin(), start.end());
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t i = 0; i < d / 2; ++i) {
      const bool pairs = layout == RopeLayout::kInterleaved;
      const std::int64_t a = h * stride + (pairs ? 2 * i : i);
      const std::int64_t b = pairs ? a + 1 : a + d / 2;
      const double cos = cos_sin[2 * i];
      const double sin = cos_sin[2 * i + 1];
      want[a] = start[a] * cos - start[b] * sin;
      want[b] = start[a] * sin + start[b] * cos;
    }
  }
  const std::vector<double> tolerance(want.size(), 4 * 4 * 0x1p-24);
  EXPECT_TRUE(test::AllWithin(x, want, tolerance)) << Name(isa) << " d " << d;
}

TEST(Rope, RotatesBothLayouts) {
  for (const Isa isa : SupportedIsas()) {
    for (const std::int64_t d : {2, 6, 8, 16, 18, 30, 32, 64, 128}) {
      CheckRope(isa, RopeLayout::kInterleaved, d);
      CheckRope(isa, RopeLayout::kHalf, d);
    }
  }
}

TEST(ToBf16, EqualsTheScalarConversionForAllKindsOfValues) {
  Random random(1);
  std::vector<float> x = {0.0F,   -0.0F,   kInfinity, -kInfinity,  kNan,       -kNan,
                          1e-40F, -3e-39F, 3.4e38F,   1.00390625F, 1.01171875F};
  for (int i = 0; i < 100000; ++i) {
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.Integer(0, 0xFFFFFFFF))));
  }
  for (const Isa isa : SupportedIsas()) {
    std::vector<std::uint16_t> y(x.size());
    MakeKernelTable(isa).to_bf16({x.data(), y.data(), static_cast<std::int64_t>(x.size())});
    for (std::size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(y[i], F32ToBf16(x[i])) << Name(isa) << " of " << x[i];
    }
  }
}

TEST(ToF16, EqualsTheScalarConversionAndSaturates) {
  Random random(2);
  std::vector<float> x = {0.0F,     -0.0F,    kInfinity, -kInfinity, kNan,
                          65504.0F, 65520.0F, -1e9F,     1e-8F,      6e-8F};
  for (int i = 0; i < 100003; ++i) {
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.Integer(0, 0xFFFFFFFF))));
  }
  for (const Isa isa : SupportedIsas()) {
    std::vector<std::uint16_t> y(x.size());
    MakeKernelTable(isa).to_f16({x.data(), y.data(), static_cast<std::int64_t>(x.size())});
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(F16ToF32(y[i]))) << Name(isa);
      } else {
        ASSERT_EQ(y[i], F32ToF16(std::clamp(x[i], -65504.0F, 65504.0F)))
            << Name(isa) << " of " << x[i];
      }
    }
  }
}

void CheckWiden(Isa isa, DType type) {
  std::vector<std::uint16_t> w(65536 + 3);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<std::uint16_t>(i);
  std::vector<float> y(w.size());
  MakeKernelTable(isa).widen({w.data(), type, y.data(), static_cast<std::int64_t>(w.size())});
  for (std::size_t i = 0; i < w.size(); ++i) {
    const float want = type == DType::kBF16 ? Bf16ToF32(w[i]) : F16ToF32(w[i]);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(y[i])) << Name(isa) << " code " << i;
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(y[i]), std::bit_cast<std::uint32_t>(want))
          << Name(isa) << " " << Name(type) << " code " << i;
    }
  }
}

TEST(Widen, IsExactForEveryCode) {
  const std::vector<float> x = Random(2).Uniforms(77, -1, 1);
  for (const Isa isa : SupportedIsas()) {
    CheckWiden(isa, DType::kBF16);
    CheckWiden(isa, DType::kF16);
    std::vector<float> y(x.size());
    MakeKernelTable(isa).widen({x.data(), DType::kF32, y.data(), 77});
    EXPECT_EQ(y, x) << Name(isa);
  }
}

TEST(Add, AddsEveryElement) {
  for (const Isa isa : SupportedIsas()) {
    for (const std::int64_t n : kSizes) {
      Random random(static_cast<std::uint64_t>(n));
      const std::vector<float> x = random.Uniforms(n, -1, 1);
      const std::vector<float> start = random.Uniforms(n + 1, -1, 1);
      std::vector<float> y = start;
      MakeKernelTable(isa).add({x.data(), y.data(), n});
      for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(y[i], start[i] + x[i]) << Name(isa);
      EXPECT_EQ(y.back(), start.back()) << Name(isa) << " wrote past the end";
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
