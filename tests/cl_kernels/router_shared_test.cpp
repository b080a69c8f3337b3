// ctest: opencl
// The launch that makes the shared expert's act beside the choice of experts, and the experts after
// it, against launches of their own.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

struct Case {
  DType router = DType::kF32;
  DType experts = DType::kF8E4M3;
  std::int64_t E, K, D, F, shared_F;
  bool bias = false;
  int scoring = 0;  // softmax
  bool normalise = false;
};

struct Result {
  bool one = false;  // launch made scores, choice, lists and act
  std::vector<float> h, logits, weights, y;
  std::vector<std::int32_t> ids, again;  // again: what Router chooses of these logits
};

class RouterSharedTest : public test::ClShapesTest {
 protected:
  // With the launch, which is off unless asked for.
  cl::Kernels& kernels() {
    static std::unique_ptr<cl::Kernels> of_shapes[3];
    auto& kernels = of_shapes[static_cast<int>(GetParam())];
    if (!kernels) {
      cl::DeviceTraits traits = Traits();
      traits.shared_beside_choice = true;
      kernels = std::make_unique<cl::Kernels>(device(), "", traits);
    }
    return *kernels;
  }

  Result Run(const Case& c, bool together) {
    const std::int64_t C = c.K + 1;
    const std::int64_t F = std::max(c.F, c.shared_F);
    test::WeightBlob blob;
    std::vector<cl::ExpertEntry> table;
    cl::Weight gate;
    cl::Weight up;
    for (std::int64_t e = 0; e <= c.E; ++e) {
      const std::int64_t rows = e == c.E ? c.shared_F : c.F;
      const auto seed = static_cast<unsigned>(10 * e);
      gate = blob.Add(test::MakeWeight(c.experts, rows, c.D, seed + 20));
      up = blob.Add(test::MakeWeight(c.experts, rows, c.D, seed + 22));
      const cl::Weight down = blob.Add(test::MakeWeight(c.experts, c.D, rows, seed + 24));
      table.push_back({gate.offset, gate.scale_offset, up.offset, up.scale_offset, down.offset,
                       down.scale_offset, 0, static_cast<cl_int>(rows)});
    }
    cl::Weight w = blob.Add(test::MakeWeight(c.router, c.E, c.D, 3));
    const ClBuffer slab = blob.Upload(device());
    w.buffer = gate.buffer = up.buffer = slab.get();
    const ClBuffer x = test::Upload(device(), test::RandomFloats(c.D, 5));
    const ClBuffer norm = test::Upload(device(), test::RandomFloats(c.D, 7));
    const ClBuffer bias = test::Upload(device(), test::RandomFloats(c.E, 8, 0.1F));
    const ClBuffer d_table = test::Upload(device(), table);
    const ClBuffer h = device().Allocate(c.D * 4);
    const ClBuffer logits = device().Allocate(c.E * 4);
    const ClBuffer choice = device().Allocate(2 * c.K * 4);
    const ClBuffer lists = device().Allocate((4 * C + 1 + 3 * C) * 4);
    const ClBuffer act = test::Upload(device(), std::vector<float>(C * F, 1e9F));
    const ClBuffer out = device().Allocate(C * c.D * 4);
    const ClBuffer y = test::Upload(device(), test::RandomFloats(c.D, 9));
    cl::RouterArgs r;
    r.logits = {logits.get(), 0};
    if (c.bias) r.bias = {bias.get(), 0};
    r.ids = {choice.get(), 0};
    r.weights = {choice.get(), c.K};
    r.T = 1;
    r.E = c.E;
    r.K = c.K;
    r.scoring = c.scoring;
    r.norm_topk_prob = c.normalise;
    r.routed_scaling_factor = 1.5F;
    cl::GroupArgs g;
    g.ids = r.ids;
    g.weights = r.weights;
    g.table = {d_table.get(), 0};
    g.T = 1;
    g.K = c.K;
    g.E = c.E;
    g.shared = true;
    g.tiles = {lists.get(), 0};
    g.n_tiles = {lists.get(), 4 * C};
    g.pair_row = {lists.get(), 4 * C + 1};
    g.pair_weight = {lists.get(), 5 * C + 1};
    g.token_pairs = {lists.get(), 6 * C + 1};
    const cl_mem slabs[] = {slab.get()};
    cl::ExpertsArgs a;
    a.slabs = slabs;
    a.gate_up = a.down = c.experts;
    a.D = c.D;
    a.F = F;
    a.F_unit = std::gcd(c.F, c.shared_F);
    a.table = g.table;
    a.tiles = g.tiles;
    a.n_tiles = g.n_tiles;
    a.max_tiles = C;
    a.pair_row = g.pair_row;
    a.pair_weight = g.pair_weight;
    a.token_pairs = g.token_pairs;
    a.T = 1;
    a.C = C;
    a.x = {h.get(), 0};
    a.x_stride = c.D;
    a.act = {act.get(), 0};
    a.pair_out = {out.get(), 0};
    a.y = {y.get(), 0};
    a.y_stride = c.D;
    cl::LinearArgs scores{{x.get(), 0}, c.D, w, r.logits, c.E, 1, false};
    scores.norm = {{norm.get(), 0}, 1e-6F, a.x, c.D};
    Result result;
    if (together) result.one = kernels().RouterAndShared(scores, r, g, a, gate, up);
    if (!result.one) {
      kernels().Linear(scores);
      kernels().Router(r);
      kernels().Group(g);
    }
    a.shared_made = result.one;
    kernels().Experts(a);
    result.h = test::Download<float>(device(), h, c.D);
    result.logits = test::Download<float>(device(), logits, c.E);
    result.y = test::Download<float>(device(), y, c.D);
    result.ids = test::Download<std::int32_t>(device(), choice, c.K);
    result.weights = test::Download<float>(device(), choice, 2 * c.K);
    result.weights.erase(result.weights.begin(), result.weights.begin() + c.K);
    kernels().Router(r);
    result.again = test::Download<std::int32_t>(device(), choice, c.K);
    return result;
  }

  static void ExpectNear(const std::vector<float>& got, const std::vector<float>& want) {
    float most = 0;
    for (const float v : want) most = std::max(most, std::abs(v));
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], 2e-5F * most) << "value " << i;
    }
  }

  void Check(const Case& c) {
    SCOPED_TRACE(fmt::format("{} {} D {}", Name(c.router), Name(c.experts), c.D));
    const Result want = Run(c, false);
    for (int i = 0; i < 3; ++i) {
      const Result got = Run(c, true);
      const bool bytes = c.experts == DType::kF8E4M3 || c.experts == DType::kQ8_0;
      const bool room = 2 * ((c.E + 3) / 4) <= device().info().compute_units;
      EXPECT_EQ(got.one, bytes && room && Traits().nv_compute >= 80);
      ExpectNear(got.h, want.h);
      ExpectNear(got.logits, want.logits);
      EXPECT_EQ(got.ids, want.ids);
      EXPECT_EQ(got.ids, got.again);
      ExpectNear(got.weights, want.weights);
      ExpectNear(got.y, want.y);
    }
  }
};

TEST_P(RouterSharedTest, AsLaunchesOfTheirOwn) {
  Check({.E = 16, .K = 3, .D = 256, .F = 128, .shared_F = 256});
  if (GetParam() != Shapes::kOwn) return;
  Check({.E = 18, .K = 6, .D = 2048, .F = 128, .shared_F = 2816});
  Check({.E = 7, .K = 2, .D = 2304, .F = 384, .shared_F = 640, .normalise = true});
  Check({.E = 160,
         .K = 8,
         .D = 256,
         .F = 128,
         .shared_F = 128,
         .bias = true,
         .scoring = 1,
         .normalise = true});
}

// By itself: a driver takes long to compile what these need.
TEST_P(RouterSharedTest, Formats) {
  if (GetParam() != Shapes::kOwn) return;
  for (const DType router : {DType::kBF16, DType::kF16}) {
    Check({.router = router, .E = 18, .K = 6, .D = 512, .F = 128, .shared_F = 640});
  }
  Check({.experts = DType::kQ8_0, .E = 20, .K = 8, .D = 512, .F = 256, .shared_F = 256});
  Check({.experts = DType::kQ4_K, .E = 8, .K = 2, .D = 512, .F = 256, .shared_F = 256});
}

INSTANTIATE_TEST_SUITE_P(Shapes, RouterSharedTest,
                         testing::Values(Shapes::kCpu, Shapes::kGpu, Shapes::kOwn),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
