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

}  // namespace
}  // namespace tandem
