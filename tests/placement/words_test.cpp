// ctest: unit
#include <gtest/gtest.h>

#include <array>

#include "placement/byte_size.h"
#include "placement/nearest.h"

namespace tandem {
namespace {

TEST(EditDistance, CountsTheFourEdits) {
  EXPECT_EQ(EditDistance("", ""), 0);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("context", "context"), 0);
  EXPECT_EQ(EditDistance("contex", "context"), 1);
  EXPECT_EQ(EditDistance("contexts", "context"), 1);
  EXPECT_EQ(EditDistance("conteyt", "context"), 1);
  EXPECT_EQ(EditDistance("contxet", "context"), 1);  // neighbours swapped
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

TEST(NearestKey, FindsMisspellingsAndLeavesStrangersAlone) {
  constexpr std::array<std::string_view, 4> kKeys{"device", "dense", "head", "router"};
  EXPECT_EQ(NearestKey("devcie", kKeys), "device");
  EXPECT_EQ(NearestKey("heads", kKeys), "head");
  EXPECT_EQ(NearestKey("x", kKeys), "");
  EXPECT_EQ(NearestKey("completely", kKeys), "");
  EXPECT_EQ(NearestKey(std::string(100000, 'd'), kKeys), "");
  EXPECT_EQ(NearestKey("device", {}), "");
}

TEST(ByteSize, Parses) {
  EXPECT_EQ(ParseBytes("6 GiB"), std::uint64_t{6} << 30);
  EXPECT_EQ(ParseBytes("512MiB"), std::uint64_t{512} << 20);
  EXPECT_EQ(ParseBytes("1.5 KiB"), 1536u);
  EXPECT_EQ(ParseBytes("4096"), 4096u);
  EXPECT_EQ(ParseBytes("7 B"), 7u);
  EXPECT_EQ(ParseBytes("0"), 0u);
}

TEST(ByteSize, RefusesTheRest) {
  for (const char* text : {"", " ", "GiB", "6 GB", "6 gib", "-1", "1e3", "0.5", "1.0001 KiB", "inf",
                           "nan", "6  GiB", "6 GiB ", "99999999999999999999", "0x10"}) {
    EXPECT_FALSE(ParseBytes(text)) << text;
  }
}

TEST(ByteSize, Formats) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.00 KiB");
  EXPECT_EQ(FormatBytes(std::uint64_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(FormatBytes(~std::uint64_t{0}), "16777216.00 TiB");
}

}  // namespace
}  // namespace tandem
