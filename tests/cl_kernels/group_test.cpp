// ctest: opencl
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

struct Case {
  std::int64_t T, K, E;
  bool shared;
  std::int64_t tile_rows;
  std::int64_t ids_offset = 0;
};

struct Grouped {
  std::vector<cl::ExpertTile> tiles;
  std::int32_t n_tiles = 0;
  std::vector<std::int32_t> pair_row;
  std::vector<float> pair_weight;
  std::vector<std::int32_t> token_pairs;
};

class GroupTest : public test::ClShapesTest {
 protected:
  Grouped Run(const Case& c, const std::vector<std::int32_t>& ids,
              const std::vector<float>& weights, const std::vector<cl::ExpertEntry>& table) {
    const std::int64_t C = c.K + (c.shared ? 1 : 0);
    const std::int64_t most = cl::MaxTiles(c.T, C, c.E + (c.shared ? 1 : 0), c.tile_rows);
    std::vector<std::int32_t> all_ids(c.ids_offset, 0);
    all_ids.insert(all_ids.end(), ids.begin(), ids.end());
    const ClBuffer d_ids = test::Upload(device(), all_ids);
    const ClBuffer d_weights = test::Upload(device(), weights);
    const ClBuffer d_table = test::Upload(device(), table);
    // One more tile before and behind, to see what must stay.
    const ClBuffer tiles =
        test::Upload(device(), std::vector<cl::ExpertTile>(most + 2, {-7, -7, -7, -7}));
    const ClBuffer n_tiles = test::Upload(device(), std::vector<std::int32_t>(1, -7));
    const ClBuffer pair_row = test::Upload(device(), std::vector<std::int32_t>(c.T * C, -7));
    const ClBuffer pair_weight = test::Upload(device(), std::vector<float>(c.T * C, -7.0F));
    const ClBuffer token_pairs = test::Upload(device(), std::vector<std::int32_t>(c.T * C, -7));
    cl::GroupArgs a;
    a.ids = {d_ids.get(), c.ids_offset};
    a.weights = {d_weights.get(), 0};
    a.table = {d_table.get(), 0};
    a.T = c.T;
    a.K = c.K;
    a.E = c.E;
    a.shared = c.shared;
    a.tile_rows = c.tile_rows;
    a.tiles = {tiles.get(), 4};
    a.n_tiles = {n_tiles.get(), 0};
    a.pair_row = {pair_row.get(), 0};
    a.pair_weight = {pair_weight.get(), 0};
    a.token_pairs = {token_pairs.get(), 0};
    kernels().Group(a);
    Grouped g;
    g.tiles = test::Download<cl::ExpertTile>(device(), tiles, most + 2);
    EXPECT_EQ(g.tiles.front().expert, -7);
    EXPECT_EQ(g.tiles.back().expert, -7) << "more than MaxTiles";
    g.tiles.erase(g.tiles.begin());
    g.n_tiles = test::Download<std::int32_t>(device(), n_tiles, 1)[0];
    g.pair_row = test::Download<std::int32_t>(device(), pair_row, c.T * C);
    g.pair_weight = test::Download<float>(device(), pair_weight, c.T * C);
    g.token_pairs = test::Download<std::int32_t>(device(), token_pairs, c.T * C);
    return g;
  }

  // Every promise of GroupArgs: experts in their order, and of an expert the rows in theirs.
  void Check(const Case& c, int off_device_every) {
    SCOPED_TRACE(fmt::format("T {} K {} E {} shared {} tile_rows {} off {}", c.T, c.K, c.E,
                             c.shared, c.tile_rows, off_device_every));
    const std::int64_t C = c.K + (c.shared ? 1 : 0);
    std::mt19937 random(static_cast<unsigned>(c.T * 31 + c.E));
    std::vector<cl::ExpertEntry> table(static_cast<std::size_t>(c.E + (c.shared ? 1 : 0)));
    for (std::size_t e = 0; e < table.size(); ++e) {
      table[e].slab = off_device_every > 0 && e % off_device_every == 0 ? -1 : 0;
    }
    std::vector<std::int32_t> ids;
    std::vector<float> weights;
    for (std::int64_t t = 0; t < c.T; ++t) {
      std::set<std::int32_t> chosen;  // a row's choices differ
      while (std::ssize(chosen) < c.K) chosen.insert(static_cast<std::int32_t>(random() % c.E));
      for (const std::int32_t e : chosen) {
        ids.push_back(e);
        weights.push_back(static_cast<float>(random() % 1000) / 1000.0F);
      }
    }
    const Grouped g = Run(c, ids, weights, table);
    std::map<int, std::vector<std::int64_t>> pairs_of;  // expert -> pairs, by walking the tokens
    std::set<std::int32_t> seen;
    for (std::int64_t i = 0; i < c.T * C; ++i) {
      const bool is_shared = i % C == c.K;
      const int e = is_shared ? static_cast<int>(c.E) : ids[i / C * c.K + i % C];
      const std::int32_t p = g.token_pairs[i];
      if (table[e].slab < 0) {
        ASSERT_EQ(p, -1) << i;
        continue;
      }
      ASSERT_TRUE(p >= 0 && p < c.T * C && seen.insert(p).second) << i << ": " << p;
      ASSERT_EQ(g.pair_row[p], i / C) << p;
      ASSERT_EQ(g.pair_weight[p], is_shared ? 1.0F : weights[i / C * c.K + i % C]) << p;
      pairs_of[e].push_back(p);
    }
    std::int64_t next = 0;
    std::int64_t tile = 0;
    for (auto& [e, pairs] : pairs_of) {
      ASSERT_TRUE(std::is_sorted(pairs.begin(), pairs.end())) << "expert " << e;
      ASSERT_EQ(pairs.front(), next) << "expert " << e;
      ASSERT_EQ(pairs.back(), next + std::ssize(pairs) - 1) << "expert " << e;
      for (std::int64_t at = 0; at < std::ssize(pairs); at += c.tile_rows, ++tile) {
        ASSERT_LT(tile, g.n_tiles);
        EXPECT_EQ(g.tiles[tile].expert, e);
        EXPECT_EQ(g.tiles[tile].first_pair, next + at);
        EXPECT_EQ(g.tiles[tile].n_pairs, std::min(c.tile_rows, std::ssize(pairs) - at));
      }
      next += std::ssize(pairs);
    }
    EXPECT_EQ(g.n_tiles, tile);
  }
};

TEST_P(GroupTest, OneTokenAndAFew) {
  for (const std::int64_t T : {1, 2, 3, 7}) {
    for (const int off : {0, 1, 3}) {
      Check({T, 8, 256, false, 8}, off);
      Check({T, 6, 64, true, 8}, off);
      Check({T, 2, 3, true, 2}, off);
    }
  }
}

TEST_P(GroupTest, ManyTokens) {
  for (const int off : {0, 1, 2}) {
    Check({9, 8, 16, false, 4}, off);
    Check({64, 8, 256, true, 8}, off);
    Check({500, 6, 64, true, 64}, off);
    Check({300, 4, 512, true, 64}, off);
  }
  Check({4096, 8, 256, true, 64}, 5);
  Check({4096, 6, 64, true, 128}, 0);
}

// Shares of work-groups that begin between the choices of a row, and ids between vectors.
TEST_P(GroupTest, OddSharesAndOffsets) {
  for (const std::int64_t T : {10, 33, 257, 1000}) {
    for (const std::int64_t offset : {1, 2, 4}) {
      Check({T, 7, 61, true, 16, offset}, 0);
      Check({T, 5, 61, false, 16, offset}, 7);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
