// ctest: unit
// How the matrices of experts are put into pieces on their way to a device.
#include "runtime/expert_copy.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

constexpr std::uint64_t kPiece = 1000;

std::vector<std::byte> memory(std::size_t{1} << 16);

HostRun Part(std::uint64_t from, std::uint64_t bytes, std::uint64_t at) {
  return {memory.data() + from, bytes, at};
}

// Every byte of every run goes to its place once, in pieces that hold no more than they may.
void Check(const std::vector<HostRun>& runs, std::size_t pieces) {
  const auto cut = InPieces(runs, kPiece);
  EXPECT_EQ(cut.size(), pieces);
  std::vector<HostRun> parts;
  for (const auto& piece : cut) {
    ASSERT_FALSE(piece.empty());
    EXPECT_LE(piece.back().at + piece.back().bytes - piece.front().at, kPiece);
    parts.insert(parts.end(), piece.begin(), piece.end());
  }
  std::size_t part = 0;
  for (const HostRun& run : runs) {
    for (std::uint64_t done = 0; done < run.bytes; ++part) {
      ASSERT_LT(part, parts.size());
      EXPECT_EQ(parts[part].from, run.from + done);
      EXPECT_EQ(parts[part].at, run.at + done);
      EXPECT_GT(parts[part].bytes, 0U);
      done += parts[part].bytes;
      ASSERT_LE(done, run.bytes);
    }
  }
  EXPECT_EQ(part, parts.size());
}

TEST(InPieces, ManySmallRunsShareOne) {
  Check({Part(0, 300, 50), Part(400, 16, 512), Part(500, 256, 768)}, 1);
}

TEST(InPieces, ARunIsCutWhereAPieceEnds) {
  Check({Part(0, 2500, 0)}, 3);
  Check({Part(0, 900, 0), Part(1000, 900, 1024), Part(2000, 100, 1924)}, 2);
  Check({Part(0, 1000, 100), Part(1000, 1000, 1100)}, 2);
}

TEST(InPieces, AWideGapPartsThem) {
  Check({Part(0, 100, 0), Part(100, 100, 20000)}, 2);
  Check({}, 0);
}

void CheckJoined(const std::vector<HostRun>& runs, const std::vector<HostRun>& want) {
  const auto copies = Joined(runs, kPiece);
  ASSERT_EQ(copies.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(copies[i].from, want[i].from) << i;
    EXPECT_EQ(copies[i].bytes, want[i].bytes) << i;
    EXPECT_EQ(copies[i].at, want[i].at) << i;
  }
}

TEST(Joined, WhatFollowsInBothIsOne) {
  CheckJoined({Part(0, 100, 512), Part(128, 60, 640), Part(192, 100, 704)}, {Part(0, 292, 512)});
  CheckJoined({}, {});
}

TEST(Joined, AnotherDistanceOrAWideGapParts) {
  CheckJoined({Part(0, 100, 512), Part(128, 60, 700)}, {Part(0, 100, 512), Part(128, 60, 700)});
  CheckJoined({Part(0, 100, 0), Part(200, 60, 200)}, {Part(0, 100, 0), Part(200, 60, 200)});
  CheckJoined({Part(128, 60, 640), Part(0, 100, 700)}, {Part(128, 60, 640), Part(0, 100, 700)});
}

TEST(Joined, NoneIsLongerThanItMayBe) {
  CheckJoined({Part(0, 2500, 64)},
              {Part(0, 1000, 64), Part(1000, 1000, 1064), Part(2000, 500, 2064)});
  CheckJoined({Part(0, 900, 0), Part(900, 300, 900)}, {Part(0, 1000, 0), Part(1000, 200, 1000)});
}

TEST(PageRanges, NeighboursAreOne) {
  const auto page = reinterpret_cast<std::uintptr_t>(memory.data()) % 4096;
  const std::uint64_t begin = (4096 - page) % 4096;  // of a page
  const auto ranges = PageRanges(
      {Part(begin + 9000, 100, 0), Part(begin + 10, 5000, 0), Part(begin + 30000, 1, 0)});
  ASSERT_EQ(ranges.size(), 2U);
  EXPECT_EQ(ranges[0].data(), memory.data() + begin);
  EXPECT_EQ(ranges[0].size(), 3U * 4096);
  EXPECT_EQ(ranges[1].data(), memory.data() + begin + 7 * 4096);
  EXPECT_EQ(ranges[1].size(), 4096U);
}

}  // namespace
}  // namespace tandem
