// ctest: opencl
#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;
using test::TestWeight;

double Silu(double v) { return v / (1 + std::exp(-v)); }

struct Expert {
  TestWeight gate, up, down;
  int n_pairs = 0;
};

class ExpertsTest : public test::ClShapesTest {
 protected:
  static std::vector<Expert> MakeExperts(DType dtype, std::int64_t D, std::int64_t F,
                                         const std::vector<int>& pairs) {
    std::vector<Expert> experts;
    unsigned seed = 100;
    for (const int n : pairs) {
      experts.push_back({test::MakeWeight(dtype, F, D, seed),
                         test::MakeWeight(dtype, F, D, seed + 2),
                         test::MakeWeight(dtype, D, F, seed + 4), n});
      seed += 10;
    }
    return experts;
  }

  // Double-precision values of one pair against the device's: act from x, pair_out from the
  // device's act, so that each tolerance is that of one product.
  static void SeePair(const Expert& e, std::int64_t D, std::int64_t F, const float* x,
                      double weight, const float* act, const float* out, test::Worst& worst,
                      std::int64_t p) {
    for (std::int64_t f = 0; f < F; ++f) {
      test::Reference gate, up;
      for (std::int64_t d = 0; d < D; ++d) {
        gate.Add(x[d], e.gate.values[f * D + d]);
        up.Add(x[d], e.up.values[f * D + d]);
      }
      // silu's slope is below 1.1 and |silu(v)| <= |v|: errors of both factors, to first order.
      const test::Reference want{
          weight * Silu(gate.value) * up.value,
          std::fabs(weight) * (1.1 * gate.size * std::fabs(up.value) +
                               std::fabs(Silu(gate.value)) * up.size + gate.size * up.size * 1e-5)};
      worst.See(act[f], want, test::DotFactor(D), p, f);
    }
    for (std::int64_t d = 0; d < D; ++d) {
      test::Reference want;
      for (std::int64_t f = 0; f < F; ++f) want.Add(act[f], e.down.values[d * F + f]);
      worst.See(out[d], want, test::DotFactor(F), p, d);
    }
  }

  void Check(DType dtype, std::int64_t D, std::int64_t F, const std::vector<int>& pairs) {
    const std::vector<Expert> experts = MakeExperts(dtype, D, F, pairs);
    const int P = std::accumulate(pairs.begin(), pairs.end(), 0);
    test::WeightBlob blob;
    std::vector<cl::ExpertJob> jobs(1);  // the launch starts at job 1
    int first = 0;
    for (const Expert& e : experts) {
      const cl::Weight gate = blob.Add(e.gate);
      const cl::Weight up = blob.Add(e.up);
      const cl::Weight down = blob.Add(e.down);
      jobs.push_back({gate.offset, gate.scale_offset, up.offset, up.scale_offset, down.offset,
                      down.scale_offset, first, e.n_pairs});
      first += e.n_pairs;
    }
    const std::int64_t rows = 5;
    const auto x = test::RandomFloats(static_cast<std::size_t>(rows * D), 3, 0.5F);
    const auto pair_weight = test::RandomFloats(static_cast<std::size_t>(P), 4);
    std::vector<std::int32_t> pair_row(static_cast<std::size_t>(P));
    for (int p = 0; p < P; ++p) pair_row[p] = (p * 3 + 1) % static_cast<int>(rows);

    const ClBuffer weights = blob.Upload(device());
    const ClBuffer job_buffer = test::Upload(device(), jobs);
    const ClBuffer row_buffer = test::Upload(device(), pair_row);
    const ClBuffer weight_buffer = test::Upload(device(), pair_weight);
    const ClBuffer xs = test::Upload(device(), x);
    const ClBuffer act = test::Upload(device(), std::vector<float>(P * F));
    const ClBuffer out = test::Upload(device(), std::vector<float>(P * D));
    cl::ExpertJobsArgs a;
    a.weights = weights.get();
    a.dtype = dtype;
    a.D = D;
    a.F = F;
    a.jobs = {job_buffer.get(), 1};
    a.n_jobs = std::ssize(experts);
    a.max_pairs = *std::max_element(pairs.begin(), pairs.end());
    a.pair_row = {row_buffer.get(), 0};
    a.pair_weight = {weight_buffer.get(), 0};
    a.x = {xs.get(), 0};
    a.x_stride = D;
    a.act = {act.get(), 0};
    a.pair_out = {out.get(), 0};
    kernels().ExpertJobs(a);

    const auto got_act = test::Download<float>(device(), act, P * F);
    const auto got_out = test::Download<float>(device(), out, P * D);
    test::Worst worst;
    int p = 0;
    for (const Expert& e : experts) {
      for (const int end = p + e.n_pairs; p < end; ++p) {
        SeePair(e, D, F, x.data() + pair_row[p] * D, pair_weight[p], got_act.data() + p * F,
                got_out.data() + p * D, worst, p);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << Name(dtype) << " D " << D << " F " << F << " P " << P;
  }
};

TEST_P(ExpertsTest, OnePairEach) {
  for (const DType dtype : Formats()) {
    Check(dtype, 256, 128, {1, 1, 1});
  }
}

TEST_P(ExpertsTest, UnevenPairs) {
  for (const DType dtype : Formats()) {
    Check(dtype, 144, 80, {1, 8, 3, 11, 2});
    Check(dtype, 144, 80, {70, 1, 17, 0, 3});
  }
}

TEST_P(ExpertsTest, Remainders) {
  for (const DType dtype : Formats()) {
    Check(dtype, 33, 17, {1, 2});
    Check(dtype, 130, 129, {5, 20});
  }
}

TEST_P(ExpertsTest, DeepSeekShapes) {
  Check(DType::kF8E4M3, 2048, 64, {1});
  Check(DType::kF8E4M3, 64, 1408, {2});
  Check(DType::kF8E4M3, 7168, 32, {1});
}

INSTANTIATE_TEST_SUITE_P(Shapes, ExpertsTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
