// ctest: opencl
#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

class RmsNormTest : public test::ClShapesTest {
 protected:
  void Check(std::int64_t T, std::int64_t D, std::int64_t stride, bool in_place) {
    const auto x = test::RandomFloats(static_cast<std::size_t>(T * stride), 1, 3.0F);
    const auto w = test::RandomFloats(static_cast<std::size_t>(D), 2);
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer ws = test::Upload(device(), w);
    const ClBuffer other = test::Upload(device(), std::vector<float>(x.size()));
    const ClBuffer& ys = in_place ? xs : other;
    kernels().RmsNorm({{xs.get(), 0}, stride, {ws.get(), 0}, {ys.get(), 0}, stride, T, D, 1e-6F});
    const auto y = test::Download<float>(device(), ys, x.size());
    test::Worst worst;
    for (std::int64_t t = 0; t < T; ++t) {
      double squares = 0;
      for (std::int64_t i = 0; i < D; ++i) squares += double{x[t * stride + i]} * x[t * stride + i];
      const double factor = 1 / std::sqrt(squares / static_cast<double>(D) + 1e-6);
      for (std::int64_t i = 0; i < D; ++i) {
        test::Reference want;
        want.Add(x[t * stride + i] * factor, w[i]);
        worst.See(y[t * stride + i], want, test::DotFactor(D), t, i);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "T " << T << " D " << D;
  }
};

TEST_P(RmsNormTest, Sizes) {
  for (const std::int64_t D : {1, 7, 8, 9, 63, 64, 65, 512, 1536, 2048, 2049, 7168, 8190}) {
    Check(1, D, D + 3, false);
    Check(3, D, D + 3, true);
    Check(3, D, (D + 7) / 4 * 4, D % 2 == 0);  // 16-byte loads
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNormTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
