// ctest: opencl
// Products with matrices in parts are those with the same matrices in one piece.
#include <gtest/gtest.h>

#include <list>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::ClShapesTest;
using test::Shapes;
using test::TestWeight;

constexpr std::int64_t kPart = 128;

// Rows [r0, r1) as a matrix of their own.
TestWeight RowsOf(const TestWeight& w, std::int64_t r0, std::int64_t r1) {
  TestWeight part{w.dtype, r1 - r0, w.cols, {}, {}, {}, {}};
  const auto cut = [&](const auto& from, std::uint64_t at, std::uint64_t row, auto& to) {
    to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(at + r0 * row),
              from.begin() + static_cast<std::ptrdiff_t>(at + r1 * row));
  };
  cut(w.bytes, 0, w.bytes.size() / w.rows, part.bytes);
  const std::int64_t scale_cols = (w.cols + kFp8Block - 1) / kFp8Block;
  if (!w.scales.empty()) {
    part.scales.assign(w.scales.begin() + r0 / kFp8Block * scale_cols,
                       w.scales.begin() + (r1 + kFp8Block - 1) / kFp8Block * scale_cols);
  }
  if (!IsBlockFormat(w.dtype)) return part;
  for (int i = 0; i < 3; ++i) {
    part.side.resize(SplitSideOffset(w.dtype, part.rows, w.cols, i));
    cut(w.side, SplitSideOffset(w.dtype, w.rows, w.cols, i), SplitRowOf(w.dtype, w.cols).side[i],
        part.side);
  }
  part.side.resize(SplitSideBytes(w.dtype, part.rows, w.cols));
  return part;
}

struct Case {
  std::int64_t T, N, N2, K;
  bool norm = false, swiglu = false, accumulate = false;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << "T " << c.T << " N " << c.N << " + " << c.N2 << " K " << c.K << " norm " << c.norm
       << " swiglu " << c.swiglu << " accumulate " << c.accumulate;
}

class LinearPartsTest : public ClShapesTest {
 protected:
  // In parts of at most `most` rows, each in a buffer of its own.
  cl::Weight Place(const TestWeight& w, std::int64_t most) {
    std::vector<cl::Weight*> parts;
    for (std::int64_t r = 0; r < w.rows; r += most) {
      test::WeightBlob blob;
      weights_.push_back(blob.Add(RowsOf(w, r, std::min(w.rows, r + most))));
      buffers_.push_back(blob.Upload(device()));
      weights_.back().buffer = buffers_.back().get();
      if (r > 0) parts.back()->next = &weights_.back();
      parts.push_back(&weights_.back());
    }
    return *parts[0];
  }

  // y, then y2, with a column behind each that must stay as it is.
  std::vector<float> Run(DType type, const Case& c, std::int64_t most, std::int64_t most2) {
    const auto values = [](std::int64_t n, unsigned seed) {
      return test::RandomFloats(static_cast<std::size_t>(n), seed);
    };
    const ClBuffer x = test::Upload(device(), values(c.T * c.K, 11));
    const ClBuffer norm_w = test::Upload(device(), values(c.K, 12));
    const ClBuffer y = test::Upload(device(), values(c.T * (c.N + c.N2 + 2), 13));
    const ClBuffer normed = test::Upload(device(), values(c.T * c.K, 14));
    cl::LinearArgs a;
    a.w = Place(test::MakeWeight(type, c.N, c.K, 7), most);
    if (c.N2 > 0) a.w2 = Place(test::MakeWeight(type, c.N2, c.K, 9), most2);
    a.x = {x.get(), 0};
    a.x_stride = c.K;
    a.y = {y.get(), 0};
    a.y_stride = c.N + 1;
    a.y2 = {y.get(), c.T * (c.N + 1)};
    a.y2_stride = c.N2 + 1;
    a.T = c.T;
    a.swiglu = c.swiglu;
    a.accumulate = c.accumulate;
    if (c.norm) a.norm = {{norm_w.get(), 0}, 1e-3F, {normed.get(), 0}, c.K};
    kernels().Linear(a);
    return test::Download<float>(device(), y, y.bytes() / sizeof(float));
  }

  // Shapes for GPUs choose by the rows of a product how its sums are shared out.
  void Check(DType type, const Case& c, std::int64_t most, std::int64_t most2) {
    const std::vector<float> whole = Run(type, c, c.N, std::max<std::int64_t>(c.N2, 1));
    const std::vector<float> parts = Run(type, c, most, most2);
    float largest = 0;
    for (const float v : whole) largest = std::max(largest, std::fabs(v));
    const float tolerance = GetParam() == Shapes::kCpu ? 0 : 3e-4F * largest;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      ASSERT_NEAR(parts[i], whole[i], tolerance)
          << "value " << i << " of " << ::testing::PrintToString(c) << " " << Name(type);
    }
  }

 private:
  std::list<cl::Weight> weights_;
  std::list<ClBuffer> buffers_;
};

TEST_P(LinearPartsTest, OneMatrix) {
  // A scalar format, one with scales, and block formats with one and with two side arrays.
  std::vector<DType> types{DType::kF8E4M3};
  if (!slow_to_compile()) types.insert(types.end(), {DType::kBF16, DType::kQ4_K, DType::kQ5_0});
  for (const DType type : types) {
    Check(type, {1, 300, 0, 512}, kPart, 0);
    Check(type, {1, 257, 0, 256, false, false, true}, kPart, 0);
  }
  for (const std::int64_t T : {2, 5, 18}) {
    Check(DType::kF8E4M3, {T, 300, 0, 272}, kPart, 0);
    Check(DType::kF8E4M3, {T, 300, 0, 141, true, false, true}, 2 * kPart, 0);
  }
}

TEST_P(LinearPartsTest, TwoMatricesOfWhichAnyIsInParts) {
  for (const std::int64_t T : {1, 2, 18}) {
    for (const bool norm : {false, true}) {
      Check(DType::kF8E4M3, {T, 300, 70, 272, norm}, kPart, 70);
      Check(DType::kF8E4M3, {T, 70, 300, 272, norm}, 70, kPart);
      Check(DType::kF8E4M3, {T, 300, 200, 272, norm}, kPart, kPart);
    }
  }
}

TEST_P(LinearPartsTest, SwigluOfPartsThatAreCutAlike) {
  for (const std::int64_t T : {1, 2, 18}) {
    Check(DType::kF8E4M3, {T, 300, 300, 272, true, true}, kPart, kPart);
    Check(DType::kF8E4M3, {T, 300, 300, 272, false, true, true}, kPart, kPart);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LinearPartsTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
