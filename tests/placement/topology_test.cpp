// ctest: unit
// Machines that hwloc makes up, so that what is read does not depend on the one at hand.
#include "placement/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "invented.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using test::kGiB;
using testing::ElementsAre;

TEST(Topology, TwoSocketsWithSmt) {
  const test::TempFolder root;
  root.Write("sys/devices/system/node/node0/distance", "10 20\n");
  root.Write("sys/devices/system/node/node1/distance", "20 10\n");
  root.Write("sys/devices/system/node/node1/meminfo", "Node 1 MemFree: 1048576 kB\n");
  root.Write("sys/devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages", "4\n");
  const Topology t = ReadSyntheticTopology(
      "package:2 [numa(memory=64GiB)] l3:1(size=32MiB) l2:4(size=1MiB) l1d:1(size=32KiB) core:1 "
      "pu:2",
      root.path().string());
  ASSERT_EQ(t.nodes.size(), 2U);
  EXPECT_EQ(t.nodes[0].package, 0);
  EXPECT_EQ(t.nodes[1].package, 1);
  EXPECT_EQ(t.nodes[1].memory_bytes, 64 * kGiB);
  EXPECT_EQ(t.nodes[1].free_bytes, kGiB);
  EXPECT_EQ(t.nodes[1].free_huge_page_bytes, 4 * kGiB);
  EXPECT_EQ(t.nodes[0].threads_per_core, 2);
  EXPECT_THAT(t.nodes[0].cores, ElementsAre(0, 2, 4, 6));  // the second PU of each is left out
  EXPECT_THAT(t.nodes[1].cores, ElementsAre(8, 10, 12, 14));
  EXPECT_THAT(t.distances, ElementsAre(ElementsAre(10, 20), ElementsAre(20, 10)));
}

TEST(Topology, EqualCachesAreCountedTogether) {
  const Topology t = ReadSyntheticTopology(
      "package:2 [numa(memory=8GiB)] l3:2(size=16MiB) l2:4(size=1MiB) l1d:1(size=48KiB) core:1 "
      "pu:1",
      "/nonexistent");
  ASSERT_EQ(t.caches.size(), 3U);
  const auto expect = [](const Cache& c, int level, std::uint64_t bytes, int count, int cores) {
    EXPECT_EQ(c.level, level);
    EXPECT_EQ(c.bytes, bytes);
    EXPECT_EQ(c.count, count);
    EXPECT_EQ(c.cores, cores);
  };
  expect(t.caches[0], 1, 48 << 10, 16, 1);
  expect(t.caches[1], 2, 1 << 20, 16, 1);
  expect(t.caches[2], 3, 16 << 20, 4, 4);
  EXPECT_TRUE(t.distances.empty());
}

// Four nodes in each of two packages, as processors with sub-NUMA clustering show.
TEST(Topology, SeveralNodesInAPackage) {
  const Topology t =
      ReadSyntheticTopology("package:2 group:4 [numa(memory=32GiB)] core:6 pu:1", "/nonexistent");
  ASSERT_EQ(t.nodes.size(), 8U);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(t.nodes[i].os_index, i);
    EXPECT_EQ(t.nodes[i].package, i / 4);
    EXPECT_EQ(t.nodes[i].cores.size(), 6U);
    EXPECT_EQ(t.nodes[i].threads_per_core, 1);
  }
}

// Memory of two kinds beside the same cores: one team of threads, not two.
TEST(Topology, CoresBelongToOneNodeOnly) {
  const Topology t = ReadSyntheticTopology(
      "package:1 [numa(memory=64GiB)] [numa(memory=16GiB)] core:4 pu:1", "/nonexistent");
  ASSERT_EQ(t.nodes.size(), 2U);
  EXPECT_EQ(t.nodes[0].cores.size() + t.nodes[1].cores.size(), 4U);
}

TEST(Topology, ADescriptionThatIsNoneIsAnError) {
  test::ExpectError<SystemError>(ExitCode::kOsLimit, {"hwloc", "no such thing"},
                                 [] { ReadSyntheticTopology("no such thing:4", ""); });
}

}  // namespace
}  // namespace tandem
