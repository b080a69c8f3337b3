// ctest: unit
#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include "memory/error.h"

namespace tandem {
namespace {

std::vector<std::int32_t> Table(const KvBlocks& kv, std::int32_t s) {
  return {kv.Table(s).begin(), kv.Table(s).end()};
}

TEST(KvBlocks, GrowsBlockByBlock) {
  KvBlocks kv(4, 2);
  const std::int32_t s = kv.New();
  std::vector<KvBlocks::Copy> copies;
  EXPECT_EQ(kv.BlocksFor(s, 64), 1);
  EXPECT_EQ(kv.BlocksFor(s, 65), 2);
  kv.Append(s, 64, copies);
  EXPECT_EQ(kv.free_blocks(), 3);
  kv.Append(s, 1, copies);
  EXPECT_EQ(Table(kv, s), (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(kv.Length(s), 65);
  EXPECT_TRUE(copies.empty());
  kv.Free(s);
  EXPECT_EQ(kv.free_blocks(), 4);
  EXPECT_FALSE(kv.Known(s));
}

TEST(KvBlocks, ForkSharesAndCopiesOnWrite) {
  KvBlocks kv(6, 3);
  const std::int32_t a = kv.New();
  std::vector<KvBlocks::Copy> copies;
  kv.Append(a, 100, copies);
  const std::int32_t b = kv.Fork(a, 80);
  EXPECT_EQ(Table(kv, b), Table(kv, a));
  EXPECT_EQ(kv.free_blocks(), 4);
  EXPECT_EQ(kv.BlocksFor(b, 1), 1);  // a copy of the shared tail
  kv.Append(b, 1, copies);
  ASSERT_EQ(copies.size(), 1U);
  EXPECT_EQ(copies[0].from, Table(kv, a)[1]);
  EXPECT_EQ(copies[0].to, Table(kv, b)[1]);
  EXPECT_EQ(Table(kv, a)[0], Table(kv, b)[0]);
  copies.clear();
  kv.Append(a, 1, copies);  // a's tail is its own again
  EXPECT_TRUE(copies.empty());
  kv.Free(a);
  EXPECT_EQ(kv.free_blocks(), 4);  // b still holds two
  kv.Free(b);
  EXPECT_EQ(kv.free_blocks(), 6);
}

TEST(KvBlocks, TruncateInsideASharedBlockCopiesOnTheNextWrite) {
  KvBlocks kv(6, 2);
  const std::int32_t a = kv.New();
  std::vector<KvBlocks::Copy> copies;
  kv.Append(a, 128, copies);
  const std::int32_t b = kv.Fork(a, 128);
  kv.Truncate(b, 70);
  kv.Append(b, 1, copies);
  ASSERT_EQ(copies.size(), 1U);
  EXPECT_NE(Table(kv, a)[1], Table(kv, b)[1]);
}

TEST(KvBlocks, RefusesWhatIsNotThere) {
  KvBlocks kv(2, 1);
  const std::int32_t s = kv.New();
  EXPECT_THROW(kv.New(), UsageError);
  EXPECT_THROW(kv.Truncate(s, 1), UsageError);
  EXPECT_THROW(kv.Fork(s, 1), UsageError);
  EXPECT_THROW(kv.Length(99), UsageError);
}

}  // namespace
}  // namespace tandem
