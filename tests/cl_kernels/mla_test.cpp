// ctest: opencl
// Attention in the latent space over keys in pages.
#include "tests/support/mla_attention_fixture.h"

namespace tandem {
namespace {

using test::AttentionCase;
using test::AttentionResult;
using test::kMmaTypes;
using test::MlaAttentionTest;
using test::MlaMmaTest;
using test::Shapes;

TEST_P(MlaMmaTest, ManyHeads) {
  for (const DType type : kMmaTypes) {
    CheckMma({128, 512, 64, {3, 130, 64}, 1, type});
    CheckMma({64, 512, 64, {1, 16, 17, 200}, 3, type});
  }
}

TEST_P(MlaMmaTest, FewHeads) {
  for (const DType type : kMmaTypes) {
    CheckMma({16, 512, 64, {1, 15, 33, 200}, 2, type});
    CheckMma({8, 512, 64, {5, 70, 64}, 1, type});
    CheckMma({20, 512, 64, {70}, 1, type});
  }
}

TEST_P(MlaMmaTest, RowsOfOneSequenceAndOfSeveral) {
  for (const DType type : kMmaTypes) {
    AttentionCase c{16, 512, 64, {}, 2, type};
    for (int t = 0; t < 70; ++t) {
      c.keys.push_back(t < 50 ? 40 + t : 100 - t);
      c.sequence.push_back(t < 50 ? 0 : (t < 61 ? 1 : t - 59));
    }
    CheckMma(c);
  }
}

TEST_P(MlaMmaTest, OneLaunchOfSeveral) {
  for (const DType type : kMmaTypes) {
    CheckMma({64, 512, 64, {0, 64, 130, 0}, 2, type, 1.0F, {}, 2, 1});
    CheckMma({16, 512, 64, {200, 0, 70}, 3, type, 1.0F, {}, 1, 2});
  }
}

// Queries are read in fours; others have another form.
TEST_P(MlaMmaTest, QueriesAnywhere) {
  for (const std::int64_t at : {4, 1}) {
    AttentionCase c{64, 512, 64, {17, 65}, 2, DType::kF16};
    c.q_at = at;
    CheckMma(c);
  }
}

TEST_P(MlaMmaTest, LongAndPeaked) {
  CheckMma({16, 512, 64, {3000}, 1, DType::kF16, 1.0F});
  CheckMma({128, 512, 64, {700}, 2, DType::kBF16, 60.0F});
}

TEST_P(MlaAttentionTest, EveryCacheType) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    Check({9, 512, 64, {3, 130}, 1, type});
    Check({5, 128, 16, {1, 63, 64, 65, 200}, 3, type});
  }
}

TEST_P(MlaAttentionTest, OddSizes) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    Check({3, 13, 6, {2, 66}, 2, type});
    Check({8, 64, 16, {70}, 1, type});
  }
}

TEST_P(MlaAttentionTest, EmptyRuns) { Check({2, 64, 16, {1, 64, 300}, 5}); }

// As where a row's keys lie in several buffers: some rows have none in this one.
TEST_P(MlaAttentionTest, OneLaunchOfSeveral) {
  Check({3, 64, 16, {0, 64, 130, 0}, 2, DType::kF16, 1.0F, {}, 2, 1});
  Check({9, 64, 16, {70, 3}, 1, DType::kF16, 1.0F, {}, 0, 3});
}

TEST_P(MlaAttentionTest, RowsOfOneSequence) {
  Check({4, 64, 16, {62, 63, 64, 65, 1, 2}, 2, DType::kF16, 1.0F, {0, 0, 0, 0, 1, 1}});
}

TEST_P(MlaAttentionTest, LongAndPeaked) {
  Check({2, 64, 16, {2000}, 1, DType::kF32, 1.0F});
  Check({2, 64, 16, {300}, 1, DType::kF32, 60.0F});  // nearly one-hot, maxima move far
}

TEST_P(MlaAttentionTest, ARowDoesNotDependOnTheOthers) {
  const AttentionCase c{9, 64, 16, {70, 1, 3, 64, 65, 129}, 2};
  Prepare(c);
  const AttentionResult all = Run(c, kernels(), 0, std::ssize(c.keys));
  const AttentionResult last = Run(c, kernels(), 5, 1);
  const std::size_t offset = all.parts.size() - last.parts.size();
  for (std::size_t i = 0; i < last.parts.size(); ++i) {
    ASSERT_EQ(last.parts[i], all.parts[offset + i]) << i;
  }
}

TEST(MlaSplits, FillsTheDeviceAndFitsTheScratch) {
  for (const std::int64_t T : {1, 3, 16, 64, 512}) {
    for (const std::int64_t H : {1, 8, 16, 128}) {
      for (const std::int64_t keys : {1, 64, 1000, 131072}) {
        const std::int64_t splits = cl::MlaSplits(T, H, keys, 132);
        EXPECT_GE(splits, 1);
        EXPECT_LE(T * H * splits, std::max(T * H, cl::kMlaParts + T * H));
        EXPECT_LE(splits, (keys + 63) / 64) << "runs are whole blocks";
      }
    }
  }
  EXPECT_EQ(cl::MlaSplits(1, 128, 131072, 132), 66);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaMmaTest, ::testing::Values(Shapes::kGpu),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Shapes, MlaAttentionTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
