// ctest: opencl
// MLA's expanded form against the paper's formula in double, and against the absorbed form.
#include "tests/support/mla_expanded_fixture.h"

namespace tandem {
namespace {

using Case = test::ExpandedCase;
using test::MlaExpandedTest;
using test::Shapes;
using test::Whole;

Case Small(std::int64_t T, std::int64_t prior) {
  Case c{T, prior};
  c.R = 64;
  c.d = 16;
  c.nope = 32;
  c.dv = 24;
  return c;
}

TEST_P(MlaExpandedTest, RemaindersOfRowsAndKeys) {
  for (const std::int64_t T : {1, 7, 8, 9, 63, 64, 65, 70}) {
    Check(Small(T, 0));
    Check(Small(T, T % 2 == 0 ? 59 : 130));
  }
}

TEST_P(MlaExpandedTest, RunsOfKeysAreJoined) {
  for (const std::int64_t room : {64, 128, 192}) {
    Case c = Small(33, 300);
    c.room = room;
    Check(c);
    c.prior = 0;  // rows of which the later runs have no key
    c.T = 150;
    Check(c);
    c.size = 40.0F;  // maxima far apart
    Check(c);
  }
}

TEST_P(MlaExpandedTest, EveryCacheType) {
  std::vector<DType> types{DType::kF8E4M3};
  if (!slow_to_compile()) types = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};
  for (const DType type : types) {
    Case c = Small(20, 70);
    c.R = 128;
    c.kv = type;
    Check(c);
  }
}

TEST_P(MlaExpandedTest, EveryFormatOfWeights) {
  for (const DType type : Formats()) {
    for (const bool joined : {true, false}) {
      Case c = Small(9, 60);
      c.nope = c.dv = 128;
      c.R = 128;
      c.weights = type;
      c.joined = joined;
      Check(c);
    }
  }
}

TEST_P(MlaExpandedTest, OddSizes) {
  const DType kv = slow_to_compile() ? DType::kF16 : DType::kF32;
  Case c{11, 66, 3, 37, 6, 13, 11, kv, Formats().back()};
  Check(c);
  c.joined = false;
  c.room = 64;
  Check(c);
}

TEST_P(MlaExpandedTest, RealShape) {
  if (slow_to_compile()) GTEST_SKIP() << "the CPU shapes run it";
  Case c{12, 70};
  c.weights = DType::kF8E4M3;
  c.kv = DType::kF8E4M3;
  Check(c);
}

TEST_P(MlaExpandedTest, RefusesWhatItCannotHold) {
  cl::MlaExpandedArgs a;
  a.nope = 570;
  a.d = 64;
  EXPECT_THROW(kernels().MlaExpanded(a), OpenClError);
  a.nope = 128;
  a.dv = 513;
  EXPECT_THROW(kernels().MlaExpanded(a), OpenClError);
}

// The absorbed form of the same rows, cache and weights.
TEST_P(MlaExpandedTest, EqualsTheAbsorbedForm) {
  if (CannotCompileGroups()) GTEST_SKIP() << "PoCL 5 cannot compile work-groups of 256";
  Case c = Small(30, 90);
  c.room = 64;
  Prepare(c);
  const Result got = Run(c, kernels(), false);
  const auto zeros = [&](std::int64_t floats) {
    return test::Upload(device(), std::vector<float>(static_cast<std::size_t>(floats)));
  };
  const ClBuffer absorbed = zeros(c.T * c.H * (c.R + c.d));
  const ClBuffer parts = zeros(c.T * c.H * c.R);
  const ClBuffer lse = zeros(c.T * c.H);
  const ClBuffer out = zeros(c.T * OutStride(c));
  const ClBuffer starts =
      test::Upload(device(), std::vector<int>(static_cast<std::size_t>(c.T), 2));
  kernels().MlaQuery({Whole(q_buffer_), QStride(c), weights_, Whole(turns_), Whole(absorbed), c.T,
                      c.H, c.R, c.d, c.nope, c.dv});
  kernels().MlaAttention({Whole(absorbed), kv_.get(), c.kv, Whole(tables_buffer_), Whole(starts),
                          Whole(n_keys_buffer_), Keys(c), c.T, c.H, c.R, c.d, Scale(c), 1, 0,
                          Whole(parts), Whole(lse)});
  kernels().MlaOutput({Whole(parts), Whole(lse), 1, weights_, Whole(out), OutStride(c), c.T, c.H,
                       c.R, c.nope, c.dv});
  const std::vector<float> want =
      test::Download<float>(device(), out, static_cast<std::size_t>(c.T * OutStride(c)));
  for (std::int64_t t = 0; t < c.T; ++t) {
    for (std::int64_t i = 0; i < c.H * c.dv; ++i) {
      const auto at = static_cast<std::size_t>(t * OutStride(c) + i);
      ASSERT_NEAR(got.out[at], want[at], 2e-5F) << t << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaExpandedTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu));

}  // namespace
}  // namespace tandem
