// ctest: opencl
#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

class ElementwiseTest : public test::ClTest {
 protected:
  cl::Kernels& kernels() {
    static cl::Kernels kernels(device(), "");
    return kernels;
  }
};

TEST_F(ElementwiseTest, Swiglu) {
  for (const std::int64_t F : {1, 63, 64, 65, 1408}) {
    const std::int64_t T = 3, stride = F + 2;
    const auto gate = test::RandomFloats(static_cast<std::size_t>(T * stride), 1, 20.0F);
    const auto up = test::RandomFloats(gate.size(), 2);
    const ClBuffer gates = test::Upload(device(), gate);
    const ClBuffer ups = test::Upload(device(), up);
    kernels().Swiglu(
        {{gates.get(), 0}, stride, {ups.get(), 0}, stride, {gates.get(), 0}, stride, T, F});
    const auto y = test::Download<float>(device(), gates, gate.size());
    test::Worst worst;
    for (std::int64_t i = 0; i < T * stride; ++i) {
      const double g = gate[i];
      test::Reference want;
      want.Add(i % stride < F ? g / (1 + std::exp(-g)) : g, i % stride < F ? up[i] : 1.0);
      worst.See(y[i], want, 8, i / stride, i % stride);  // exp 4 ulp, and three operations
    }
    EXPECT_TRUE(worst.Verdict()) << "F " << F;
  }
}

TEST_F(ElementwiseTest, SwigluOfLargeGatesStaysFinite) {
  const std::vector<float> gate{-1e4F, 1e4F, -88.0F, 0.0F};
  const ClBuffer gates = test::Upload(device(), gate);
  const ClBuffer ups = test::Upload(device(), std::vector<float>(4, 1.0F));
  kernels().Swiglu({{gates.get(), 0}, 4, {ups.get(), 0}, 4, {gates.get(), 0}, 4, 1, 4});
  const auto y = test::Download<float>(device(), gates, 4);
  EXPECT_NEAR(y[0], 0, 1e-30);
  EXPECT_EQ(y[1], 1e4F);
  EXPECT_NEAR(y[2], 0, 1e-30);
  EXPECT_EQ(y[3], 0);
}

TEST_F(ElementwiseTest, Add) {
  for (const std::int64_t n : {1, 64, 65, 1000}) {
    const auto x = test::RandomFloats(static_cast<std::size_t>(n + 1), 1);
    const auto y = test::RandomFloats(static_cast<std::size_t>(n + 2), 2);
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer ys = test::Upload(device(), y);
    kernels().Add({{xs.get(), 1}, {ys.get(), 1}, n});
    const auto sum = test::Download<float>(device(), ys, y.size());
    EXPECT_EQ(sum[0], y[0]);
    EXPECT_EQ(sum[n + 1], y[n + 1]);
    for (std::int64_t i = 1; i <= n; ++i) ASSERT_EQ(sum[i], x[i] + y[i]) << i;
  }
}

TEST_F(ElementwiseTest, ExpertCombineAddsInOrderAndSkipsNone) {
  const std::int64_t T = 5;
  std::mt19937 random(7);
  for (const std::int64_t K : {1, 4, 7, 8, 9, 17}) {
    for (const std::int64_t D : {1, 2, 3, 4, 70, 256, 260}) {
      const std::int64_t stride = D % 4 == 0 ? D + 4 : D + 1;  // 16-byte loads fit, or do not
      const std::int64_t P = T * K;
      std::vector<std::int32_t> pairs;
      for (std::int64_t i = 0; i < P; ++i) {
        pairs.push_back(random() % 3 == 0 ? -1 : static_cast<std::int32_t>(random() % P));
      }
      const auto out = test::RandomFloats(static_cast<std::size_t>(P * D), 1);
      const auto y = test::RandomFloats(static_cast<std::size_t>(T * stride), 2);
      const ClBuffer outs = test::Upload(device(), out);
      const ClBuffer pair_buffer = test::Upload(device(), pairs);
      const ClBuffer ys = test::Upload(device(), y);
      kernels().ExpertCombine(
          {{outs.get(), 0}, {pair_buffer.get(), 0}, T, K, D, {ys.get(), 0}, stride});
      auto want = y;
      for (std::int64_t i = 0; i < T * K * D; ++i) {
        const std::int64_t t = i / (K * D), k = i / D % K, d = i % D;
        if (pairs[t * K + k] >= 0) want[t * stride + d] += out[pairs[t * K + k] * D + d];
      }
      ASSERT_EQ(test::Download<float>(device(), ys, y.size()), want) << "K " << K << " D " << D;
    }
  }
}

TEST_F(ElementwiseTest, RopeBothLayouts) {
  for (const bool interleaved : {true, false}) {
    for (const std::int64_t d : {2, 6, 64, 128}) {
      const std::int64_t T = 3, heads = 5, head_stride = d + 4,
                         row_stride = heads * head_stride + 1;
      const auto x = test::RandomFloats(static_cast<std::size_t>(T * row_stride), 1);
      std::vector<float> cos_sin;
      for (std::int64_t i = 0; i < T * d / 2; ++i) {
        cos_sin.push_back(std::cos(0.7F * static_cast<float>(i)));
        cos_sin.push_back(std::sin(0.7F * static_cast<float>(i)));
      }
      const ClBuffer xs = test::Upload(device(), x);
      const ClBuffer angles = test::Upload(device(), cos_sin);
      cl::RopeArgs a{{xs.get(), 0}, row_stride, head_stride, heads, d, {angles.get(), 0},
                     interleaved,   T};
      kernels().Rope(a);
      const auto y = test::Download<float>(device(), xs, x.size());
      std::vector<test::Reference> want(x.size());
      for (std::size_t i = 0; i < x.size(); ++i) want[i].Add(x[i], 1);
      for (std::int64_t p = 0; p < T * heads * d / 2; ++p) {
        const std::int64_t i = p % (d / 2), h = p / (d / 2) % heads, t = p / (d / 2) / heads;
        const std::int64_t base = t * row_stride + h * head_stride;
        const std::int64_t first = base + (interleaved ? 2 * i : i);
        const std::int64_t second = interleaved ? first + 1 : first + d / 2;
        const double c = cos_sin[(t * d / 2 + i) * 2], s = cos_sin[(t * d / 2 + i) * 2 + 1];
        want[first] = want[second] = {};
        want[first].Add(x[first], c);
        want[first].Add(x[second], -s);
        want[second].Add(x[first], s);
        want[second].Add(x[second], c);
      }
      test::Worst worst;
      for (std::size_t i = 0; i < x.size(); ++i) {
        worst.See(y[i], want[i], 2, static_cast<std::int64_t>(i) / row_stride,
                  static_cast<std::int64_t>(i) % row_stride);
      }
      EXPECT_TRUE(worst.Verdict()) << "d " << d << " interleaved " << interleaved;
    }
  }
}

// Values on which the formats differ or round: ties, subnormals of f16, overflow, NaN.
std::vector<float> HardToRound(std::size_t count) {
  std::vector<float> x = test::RandomFloats(count, 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> hard{1.00390625F, 1.01171875F, 1.00048828125F, 1.00146484375F, 65504.0F,
                                65520.0F,    -1e9F,       infinity,       -infinity,      nan,
                                6e-8F,       3e-8F,       -2e-5F,         0.0F,           -0.0F};
  std::copy(hard.begin(), hard.end(), x.begin());
  return x;
}

std::uint16_t ToHalf(float value) {
  return F32ToF16(std::isnan(value) ? value : std::clamp(value, -65504.0F, 65504.0F));
}

TEST_F(ElementwiseTest, KvAppendRoundsAsTheHostDoes) {
  const std::int64_t T = 4, width = 70, stride = 75, slots_in_cache = 192;
  const std::vector<float> x = HardToRound(T * stride);
  const std::vector<std::int32_t> slots{130, 0, 64, 3};
  const ClBuffer xs = test::Upload(device(), x);
  const ClBuffer slot_buffer = test::Upload(device(), slots);
  const std::size_t count = slots_in_cache * width;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    const ClBuffer kv = test::Upload(device(), std::vector<std::uint8_t>(count * BytesOf(type), 9));
    kernels().KvAppend({{xs.get(), 0}, stride, kv.get(), type, width, {slot_buffer.get(), 0}, T});
    const auto bytes = test::Download<std::uint8_t>(device(), kv, count * BytesOf(type));
    std::vector<std::uint8_t> want(bytes.size(), 9);
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t i = 0; i < width; ++i) {
        const float value = x[t * stride + i];
        std::uint8_t* at = &want[(slots[t] * width + i) * BytesOf(type)];
        const std::uint16_t half = type == DType::kBF16 ? F32ToBf16(value) : ToHalf(value);
        if (type == DType::kF32) {
          std::memcpy(at, &value, 4);
        } else {
          std::memcpy(at, &half, 2);
        }
        if (std::isnan(value) && type == DType::kF16) {  // any NaN will do
          std::uint16_t got = 0;
          std::memcpy(&got, &bytes[at - want.data()], 2);
          ASSERT_TRUE(std::isnan(F16ToF32(got)));
          std::memcpy(at, &got, 2);
        }
        ASSERT_TRUE(std::equal(at, at + BytesOf(type), &bytes[at - want.data()]))
            << Name(type) << " of " << value;
      }
    }
    EXPECT_EQ(bytes, want) << Name(type) << ": wrote outside the slots";
  }
}

}  // namespace
}  // namespace tandem
