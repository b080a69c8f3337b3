// ctest: opencl
#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;
using test::TestWeight;

// Rows [row0, row0 + N) of each head's head_rows rows of w, as kv_b_proj holds W_UK and W_UV.
struct Case {
  std::int64_t T, heads, head_rows, row0, N, C;
};

class HeadLinearTest : public test::ClShapesTest {
 protected:
  static test::Reference Want(const Case& c, const TestWeight& w, const float* x, std::int64_t h,
                              std::int64_t column, bool transposed) {
    const double* rows = w.values.data() + (h * c.head_rows + c.row0) * c.C;
    test::Reference want;
    if (transposed) {
      for (std::int64_t n = 0; n < c.N; ++n) want.Add(x[n], rows[n * c.C + column]);
    } else {
      for (std::int64_t k = 0; k < c.C; ++k) want.Add(x[k], rows[column * c.C + k]);
    }
    return want;
  }

  void Check(DType dtype, const Case& c, bool transposed) {
    const TestWeight w = test::MakeWeight(dtype, c.heads * c.head_rows, c.C, 21);
    const std::int64_t in = transposed ? c.N : c.C;
    const std::int64_t out = transposed ? c.C : c.N;
    const auto x = test::RandomFloats(static_cast<std::size_t>(c.T * c.heads * (in + 4)), 22);
    test::WeightBlob blob;
    cl::HeadLinearArgs a;
    a.w = blob.Add(w);
    const ClBuffer weights = blob.Upload(device());
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer ys =
        test::Upload(device(), std::vector<float>(static_cast<std::size_t>(c.T * c.heads * out)));
    a.w.buffer = weights.get();
    a.x = {xs.get(), 0};
    a.x_head_stride = in + 4;
    a.x_row_stride = c.heads * (in + 4);
    a.head_rows = c.head_rows;
    a.row0 = c.row0;
    a.N = c.N;
    a.y = {ys.get(), 0};
    a.y_head_stride = out;
    a.y_row_stride = c.heads * out;
    a.T = c.T;
    a.heads = c.heads;
    a.transposed = transposed;
    kernels().HeadLinear(a);
    const auto y =
        test::Download<float>(device(), ys, static_cast<std::size_t>(c.T * c.heads * out));
    test::Worst worst;
    for (std::int64_t th = 0; th < c.T * c.heads; ++th) {
      for (std::int64_t i = 0; i < out; ++i) {
        worst.See(y[th * out + i],
                  Want(c, w, x.data() + th * (in + 4), th % c.heads, i, transposed),
                  test::DotFactor(in), th, i);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << Name(dtype) << (transposed ? " transposed" : " straight")
                                 << " T " << c.T << " heads " << c.heads << " N " << c.N;
  }
};

TEST_P(HeadLinearTest, BothForms) {
  for (const DType dtype : Formats()) {
    for (const bool transposed : {true, false}) {
      for (const std::int64_t T : {1, 2, 5, 8, 9}) Check(dtype, {T, 3, 56, 24, 32, 64}, transposed);
      Check(dtype, {3, 2, 13, 5, 7, 33}, transposed);
      Check(dtype, {1, 1, 1, 0, 1, 1}, transposed);
    }
  }
}

TEST_P(HeadLinearTest, DeepSeekShapes) {
  for (const DType dtype : Formats()) {
    Check(dtype, {1, 4, 256, 0, 128, 512}, true);
    Check(dtype, {1, 4, 256, 128, 128, 512}, false);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, HeadLinearTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
