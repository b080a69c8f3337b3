// ctest: opencl
#include "memory/cl_in_place.h"

#include <gtest/gtest.h>

#include "memory/host_buffer.h"
#include "tests/support/cl_fixture.h"

namespace tandem::test {
namespace {

using ClInPlaceTest = ClTest;

TEST_F(ClInPlaceTest, ACopyEndsWhereItsPartDoes) {
  constexpr std::size_t kPage = 4096;
  const HostBuffer memory(8 * kPage);
  const auto* const data = reinterpret_cast<const std::byte*>(memory.data());
  ClInPlace locked;
  EXPECT_EQ(locked.Together(data, 100), 100U) << "nothing is locked";
  // Two neighbours, the second one first.
  ASSERT_TRUE(locked.Lock(device(), data + 3 * kPage, 2 * kPage));
  ASSERT_TRUE(locked.Lock(device(), data + kPage, 2 * kPage));
  EXPECT_EQ(locked.bytes(), 4 * kPage);
  EXPECT_EQ(locked.Together(data + kPage, 2 * kPage), 2 * kPage);
  EXPECT_EQ(locked.Together(data + kPage, 3 * kPage), 2 * kPage);
  EXPECT_EQ(locked.Together(data + 3 * kPage - 1, 5), 1U);
  EXPECT_EQ(locked.Together(data + 3 * kPage, 5), 5U);
  EXPECT_EQ(locked.Together(data + 5 * kPage - 3, 7), 3U);
  EXPECT_EQ(locked.Together(data + 5 * kPage, 7), 7U) << "behind them all";
  EXPECT_EQ(locked.Together(data, 2 * kPage), 2 * kPage) << "before them";
}

}  // namespace
}  // namespace tandem::test
