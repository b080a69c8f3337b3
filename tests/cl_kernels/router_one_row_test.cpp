// ctest: opencl
// The launch that routes and groups a step's only row, and the one that makes its scores as well,
// against a product, a router and a grouping of their own.
#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

enum class Launches { kAll, kRouterAndGroup, kOne };

struct Lists {
  std::vector<float> logits;
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  std::vector<cl::ExpertTile> tiles;
  std::int32_t n_tiles = 0;
  std::vector<std::int32_t> pair_row, token_pairs;
  std::vector<float> pair_weight;
};

class RouterOneRowTest : public test::ClShapesTest {
 protected:
  static constexpr std::int64_t kE = 64, kK = 6, kD = 512;

  Lists Run(bool shared, Launches launches, DType type = DType::kF32) {
    const std::int64_t C = kK + (shared ? 1 : 0);
    const auto x = test::RandomFloats(kD, 5);
    test::WeightBlob blob;
    cl::Weight w = blob.Add(test::MakeWeight(type, kE, kD, 3));
    const ClBuffer d_w = blob.Upload(device());
    w.buffer = d_w.get();
    const ClBuffer d_x = test::Upload(device(), x);
    const ClBuffer d_norm = test::Upload(device(), test::RandomFloats(kD, 7));
    const ClBuffer d_normed = device().Allocate(kD * 4);
    const ClBuffer d_logits = device().Allocate(kE * 4);
    std::vector<cl::ExpertEntry> table(kE + 1);
    for (std::size_t e = 0; e < table.size(); ++e) table[e].slab = e % 3 == 1 ? -1 : 0;
    const ClBuffer d_table = test::Upload(device(), table);
    const ClBuffer ids = device().Allocate(kK * 4);
    const ClBuffer weights = device().Allocate(kK * 4);
    const ClBuffer tiles = device().Allocate(static_cast<std::size_t>(C) * sizeof(cl::ExpertTile));
    const ClBuffer words = device().Allocate(static_cast<std::size_t>(1 + 3 * C) * 4);
    cl::RouterArgs r;
    r.logits = {d_logits.get(), 0};
    r.ids = {ids.get(), 0};
    r.weights = {weights.get(), 0};
    r.T = 1;
    r.E = kE;
    r.K = kK;
    r.norm_topk_prob = true;
    cl::GroupArgs g;
    g.ids = r.ids;
    g.weights = r.weights;
    g.table = {d_table.get(), 0};
    g.T = 1;
    g.K = kK;
    g.E = kE;
    g.shared = shared;
    g.tiles = {tiles.get(), 0};
    g.n_tiles = {words.get(), 0};
    g.pair_row = {words.get(), 1};
    g.pair_weight = {words.get(), 1 + C};
    g.token_pairs = {words.get(), 1 + 2 * C};
    cl::LinearArgs scores{{d_x.get(), 0}, kD, w, r.logits, kE, 1, false};
    scores.norm = {{d_norm.get(), 0}, 1e-6F, {d_normed.get(), 0}, kD};
    if (launches == Launches::kOne) {
      kernels().ScoresAndRouter(scores, r, g);
    } else {
      kernels().Linear(scores);
      if (launches == Launches::kAll) kernels().Router(r);
      launches == Launches::kAll ? kernels().Group(g) : kernels().RouterOneRow(r, g);
    }
    Lists out;
    out.logits = test::Download<float>(device(), d_logits, kE);
    EXPECT_NE(test::Download<float>(device(), d_normed, kD), x);
    out.ids = test::Download<std::int32_t>(device(), ids, kK);
    out.weights = test::Download<float>(device(), weights, kK);
    const auto all = test::Download<std::int32_t>(device(), words, 1 + 3 * C);
    out.n_tiles = all[0];
    out.tiles = test::Download<cl::ExpertTile>(device(), tiles, out.n_tiles);
    out.pair_row.assign(all.begin() + 1, all.begin() + 1 + out.n_tiles);
    out.token_pairs.assign(all.begin() + 1 + 2 * C, all.end());
    out.pair_weight.resize(out.n_tiles);
    std::memcpy(out.pair_weight.data(), all.data() + 1 + C, out.pair_weight.size() * 4);
    return out;
  }
};

// The order of pairs may differ; what a choice's pair is may not.
void ExpectSame(const Lists& one, const Lists& all, std::int64_t choices) {
  EXPECT_EQ(one.logits, all.logits);
  EXPECT_EQ(one.ids, all.ids);
  EXPECT_EQ(one.weights, all.weights);
  ASSERT_EQ(one.n_tiles, all.n_tiles);
  EXPECT_GT(one.n_tiles, 0);
  EXPECT_LT(one.n_tiles, choices + 1);  // some are not on the device
  for (std::size_t c = 0; c < all.token_pairs.size(); ++c) {
    const std::int32_t at = one.token_pairs[c];
    const std::int32_t want = all.token_pairs[c];
    ASSERT_EQ(at < 0, want < 0) << "choice " << c;
    if (at < 0) continue;
    EXPECT_EQ(one.tiles[at].expert, all.tiles[want].expert);
    EXPECT_EQ(one.tiles[at].first_pair, at);
    EXPECT_EQ(one.tiles[at].n_pairs, 1);
    EXPECT_EQ(one.pair_row[at], all.pair_row[want]);
    EXPECT_EQ(one.pair_weight[at], all.pair_weight[want]);
  }
}

TEST_P(RouterOneRowTest, ListsWhatRouterAndGroupList) {
  for (const bool shared : {false, true}) {
    ExpectSame(Run(shared, Launches::kRouterAndGroup), Run(shared, Launches::kAll), kK);
  }
}

TEST_P(RouterOneRowTest, ScoresInTheSameLaunch) {
  std::vector<DType> types{DType::kF32};  // a CPU takes two launches for all
  if (!device().info().is_cpu) types = {DType::kF32, DType::kBF16, DType::kF8E4M3};
  for (const DType type : types) {
    SCOPED_TRACE(Name(type));
    const Lists all = Run(true, Launches::kAll, type);
    for (int i = 0; i < 3; ++i) ExpectSame(Run(true, Launches::kOne, type), all, kK);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RouterOneRowTest, testing::Values(Shapes::kCpu, Shapes::kGpu),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
