// ctest: opencl
// linear_tile.cl in each of its shapes, whichever a device would take.
#include "cl_kernels/linear_tile.h"

#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::TestWeight;

struct Case {
  std::int64_t T, N, K;
  std::int64_t x_offset = 0, x_pad = 0, y_pad = 0;
  bool accumulate = false;
};

class LinearTileTest : public test::ClTest {
 protected:
  cl::Programs& programs() {
    static cl::Programs programs(device(), cl::TraitsOf(device()), "");
    return programs;
  }

  void Check(const cl::TileShape& shape, DType dtype, const Case& c) {
    const TestWeight w = test::MakeWeight(dtype, c.N, c.K, 7);
    test::WeightBlob blob;
    cl::LinearArgs a;
    a.w = blob.Add(w);
    const std::int64_t x_stride = c.K + c.x_pad, y_stride = c.N + c.y_pad;
    const auto x = test::RandomFloats(static_cast<std::size_t>(c.x_offset + c.T * x_stride), 11);
    const auto y0 = test::RandomFloats(static_cast<std::size_t>(c.T * y_stride), 13);
    const ClBuffer weights = blob.Upload(device());
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer ys = test::Upload(device(), y0);
    a.w.buffer = weights.get();
    a.x = {xs.get(), c.x_offset};
    a.x_stride = x_stride;
    a.y = {ys.get(), 0};
    a.y_stride = y_stride;
    a.T = c.T;
    a.accumulate = c.accumulate;
    cl::LaunchLinearTile(programs(), shape, a, cl::WordsOf(a), 1);
    const auto y = test::Download<float>(device(), ys, y0.size());
    test::Worst worst;
    for (std::int64_t t = 0; t < c.T; ++t) {
      for (std::int64_t n = 0; n < y_stride; ++n) {
        const std::int64_t at = t * y_stride + n;
        if (n >= c.N) {
          ASSERT_EQ(y[at], y0[at]) << "wrote between the rows of y";
          continue;
        }
        test::Reference want;
        if (c.accumulate) want.Add(y0[at], 1);
        for (std::int64_t k = 0; k < c.K; ++k) {
          want.Add(x[c.x_offset + t * x_stride + k], w.values[n * c.K + k]);
        }
        worst.See(y[at], want, test::DotFactor(c.K), t, n);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << shape.kernel << " " << Name(dtype) << " T " << c.T << " N "
                                 << c.N << " K " << c.K;
  }
};

TEST_F(LinearTileTest, WholeTilesAndRemainders) {
  for (const cl::TileShape& shape : cl::kTileShapes) {
    Check(shape, DType::kF32, {2 * shape.rows, 2 * shape.columns, 64});
    Check(shape, DType::kF32, {shape.rows + 1, shape.columns - 1, 96, 4, 8, 3});
    Check(shape, DType::kF32, {shape.rows - 1, shape.columns + 5, 104, 3, 5, 0, true});
    for (const std::int64_t K : {1, 7, 8, 9, 31, 32, 33, 130}) {
      Check(shape, DType::kF32, {3, 66, K, 0, 0, 2, true});
    }
    Check(shape, DType::kF32, {70, 68, 1000, 0, 0, 4, true});
  }
}

TEST_F(LinearTileTest, OtherFormats) {
  for (const cl::TileShape& shape : cl::kTileShapes) {
    Check(shape, DType::kQ4_K, {shape.rows + 3, 70, 512});
  }
}

}  // namespace
}  // namespace tandem
