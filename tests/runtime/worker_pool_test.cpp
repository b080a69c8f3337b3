// ctest: unit
#include "runtime/worker_pool.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

namespace tandem {
namespace {

// Threads without pinning to cores that may not exist: -1 pins nothing.
std::vector<PlanNode> Nodes(std::vector<int> threads) {
  std::vector<PlanNode> nodes;
  for (int n : threads) nodes.push_back({0, std::vector<int>(n, -1)});
  return nodes;
}

TEST(WorkerPool, CallsEveryWorkerOnceWithItsPlace) {
  WorkerPool pool(Nodes({3, 2}), 10);
  std::vector<int> calls(5, 0);
  std::vector<Worker> seen(5);
  pool.Run([&](const Worker& w) {
    ++calls[w.index];
    seen[w.index] = w;
  });
  EXPECT_EQ(calls, std::vector<int>(5, 1));
  EXPECT_EQ(seen[3].node, 1);
  EXPECT_EQ(seen[3].index_in_node, 0);
  EXPECT_EQ(seen[4].count_in_node, 2);
  EXPECT_EQ(seen[4].count, 5);
}

TEST(WorkerPool, RunReturnsOnlyWhenAllAreDone) {
  WorkerPool pool(Nodes({4}), 10);
  std::vector<std::int64_t> sums(4);
  for (int round = 0; round < 2000; ++round) {
    pool.Run([&](const Worker& w) { sums[w.index] += w.index + round; });
  }
  const std::int64_t rounds = 2000 * 1999 / 2;
  for (int i = 0; i < 4; ++i) EXPECT_EQ(sums[i], rounds + 2000 * i);
}

TEST(WorkerPool, BarrierSeparatesPhases) {
  WorkerPool pool(Nodes({4}), 1);
  std::vector<int> first(4), total(4);
  for (int round = 1; round <= 500; ++round) {
    pool.Run([&](const Worker& w) {
      first[w.index] = round;
      pool.Barrier();
      total[w.index] = std::accumulate(first.begin(), first.end(), 0);
      pool.Barrier();
      first[w.index] = -1;
    });
    ASSERT_EQ(total, std::vector<int>(4, 4 * round)) << "round " << round;
  }
}

TEST(WorkerPool, WorksAfterSleepingAndWithOneThread) {
  WorkerPool many(Nodes({3}), 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // past the spinning
  std::atomic<int> calls{0};
  many.Run([&](const Worker&) { ++calls; });
  EXPECT_EQ(calls, 3);
  WorkerPool one(Nodes({1}), 1);
  one.Run([&](const Worker& w) {
    one.Barrier();
    EXPECT_EQ(w.count, 1);
    ++calls;
  });
  EXPECT_EQ(calls, 4);
}

TEST(WorkerPool, TwoPoolsLiveSideBySide) {
  WorkerPool a(Nodes({2}), 10), b(Nodes({3}), 10);
  std::atomic<int> calls{0};
  a.Run([&](const Worker&) { ++calls; });
  b.Run([&](const Worker&) { ++calls; });
  EXPECT_EQ(calls, 5);
}

}  // namespace
}  // namespace tandem
