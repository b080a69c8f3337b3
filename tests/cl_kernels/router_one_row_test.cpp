// ctest: opencl
// The launch that routes and groups a step's only row, against a router and a grouping of its own.
#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

struct Lists {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  std::vector<cl::ExpertTile> tiles;
  std::int32_t n_tiles = 0;
  std::vector<std::int32_t> pair_row, token_pairs;
  std::vector<float> pair_weight;
};

class RouterOneRowTest : public test::ClShapesTest {
 protected:
  static constexpr std::int64_t kE = 64, kK = 6;

  Lists Run(bool shared, bool one_launch) {
    const std::int64_t C = kK + (shared ? 1 : 0);
    const auto logits = test::RandomFloats(kE, 5, 3.0F);
    std::vector<cl::ExpertEntry> table(kE + 1);
    for (std::size_t e = 0; e < table.size(); ++e) table[e].slab = e % 3 == 1 ? -1 : 0;
    const ClBuffer d_logits = test::Upload(device(), logits);
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
    if (one_launch) {
      kernels().RouterOneRow(r, g);
    } else {
      kernels().Router(r);
      kernels().Group(g);
    }
    Lists out;
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

TEST_P(RouterOneRowTest, ListsWhatRouterAndGroupList) {
  for (const bool shared : {false, true}) {
    const Lists two = Run(shared, false);
    const Lists one = Run(shared, true);
    EXPECT_EQ(one.ids, two.ids);
    EXPECT_EQ(one.weights, two.weights);
    ASSERT_EQ(one.n_tiles, two.n_tiles);
    EXPECT_GT(one.n_tiles, 0);
    EXPECT_LT(one.n_tiles, kK + 1);  // some are not on the device
    for (std::size_t c = 0; c < two.token_pairs.size(); ++c) {
      const std::int32_t at = one.token_pairs[c];
      const std::int32_t want = two.token_pairs[c];
      ASSERT_EQ(at < 0, want < 0) << "choice " << c;
      if (at < 0) continue;
      // The order may differ; what a choice's pair is may not.
      EXPECT_EQ(one.tiles[at].expert, two.tiles[want].expert);
      EXPECT_EQ(one.tiles[at].first_pair, at);
      EXPECT_EQ(one.tiles[at].n_pairs, 1);
      EXPECT_EQ(one.pair_row[at], two.pair_row[want]);
      EXPECT_EQ(one.pair_weight[at], two.pair_weight[want]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RouterOneRowTest, testing::Values(Shapes::kCpu, Shapes::kGpu),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
