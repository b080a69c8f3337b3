// ctest: opencl
// The largest logit of each row, in parts, against a plain search.
#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

class ArgmaxTest : public test::ClShapesTest {
 protected:
  std::vector<cl::ArgmaxPart> Run(const std::vector<float>& logits, std::int64_t rows) {
    const auto V = static_cast<std::int64_t>(logits.size()) / rows;
    const ClBuffer in = test::Upload(device(), logits);
    const auto count = static_cast<std::size_t>(rows * cl::kArgmaxParts);
    const ClBuffer out = device().Allocate(count * sizeof(cl::ArgmaxPart));
    kernels().Argmax({{in.get(), 0}, rows, V, out.get()});
    return test::Download<cl::ArgmaxPart>(device(), out, count);
  }
  // As the engine puts the parts together: the first of the largest; -1 where one is not finite.
  static std::int32_t Best(const std::vector<cl::ArgmaxPart>& parts, std::int64_t row) {
    cl::ArgmaxPart best{-INFINITY, -1};
    for (std::int64_t p = 0; p < cl::kArgmaxParts; ++p) {
      const cl::ArgmaxPart& part = parts[static_cast<std::size_t>(row * cl::kArgmaxParts + p)];
      if (part.id < 0) return -1;
      if (part.value > best.value) best = part;
    }
    return best.id;
  }
};

TEST_P(ArgmaxTest, FindsTheFirstOfTheLargest) {
  for (const std::int64_t V : {1, 2, 31, 33, 1000, 102'400}) {
    const std::int64_t rows = 3;
    std::vector<float> logits =
        test::RandomFloats(static_cast<std::size_t>(rows * V), static_cast<unsigned>(V));
    // Equal largest values at two places of row 1; all of row 2 the same.
    logits[static_cast<std::size_t>(V + V / 3)] = logits[static_cast<std::size_t>(V + V - 1)] = 9;
    std::fill_n(logits.begin() + 2 * V, V, -7.0F);
    const auto parts = Run(logits, rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto row = logits.begin() + r * V;
      EXPECT_EQ(Best(parts, r), std::max_element(row, row + V) - row) << "V " << V << ", row " << r;
    }
  }
}

TEST_P(ArgmaxTest, TellsOfLogitsThatAreNotFinite) {
  for (const float bad : {std::nanf(""), INFINITY}) {
    std::vector<float> logits = test::RandomFloats(5000, 3);
    logits[4321] = bad;
    EXPECT_EQ(Best(Run(logits, 1), 0), -1) << bad;
  }
  std::vector<float> masked(5000, -INFINITY);  // tokens that are not allowed
  masked[17] = -1e30F;
  EXPECT_EQ(Best(Run(masked, 1), 0), 17);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ArgmaxTest, testing::Values(Shapes::kCpu, Shapes::kGpu),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
