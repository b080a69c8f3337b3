// ctest: unit
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "model/utf8.h"

namespace tandem {
namespace {

const Tokenizer& Demo() {
  static const Tokenizer tokenizer = [] {
    const std::string path = TANDEM_SOURCE_DIR "/model/demo/tokenizer.json";
    std::ifstream file(path, std::ios::binary);
    return Tokenizer(std::string(std::istreambuf_iterator<char>(file), {}), path);
  }();
  return tokenizer;
}

// One token for each byte, whatever the merges say: the worst split.
std::vector<std::int32_t> ByteIds(const std::string& bytes) {
  std::vector<std::int32_t> ids;
  for (const char byte : bytes) {
    for (std::int32_t id = 0; id < Demo().vocab_size(); ++id) {
      if (Demo().Bytes(id) != std::string_view(&byte, 1)) continue;
      ids.push_back(id);
      break;
    }
  }
  EXPECT_EQ(ids.size(), bytes.size());
  return ids;
}

std::string Streamed(const std::vector<std::int32_t>& ids) {
  StreamDecoder decoder(Demo());
  std::string whole;
  for (const std::int32_t id : ids) {
    const std::string piece = decoder.Push(id);
    EXPECT_EQ(ValidUtf8Prefix(piece), piece.size()) << "half a character in " << piece;
    whole += piece;
  }
  return whole + decoder.Finish();
}

// F38
TEST(StreamDecoder, PiecesJoinToTheWholeText) {
  for (const std::string text :
       {"", "plain", "naïve café", "日本語", "👩‍👩‍👧‍👦🇫🇷 emoji",
        "e\xCC\x81\xCC\x82", "Привет"}) {
    EXPECT_EQ(Streamed(Demo().Encode(text)), text);
    EXPECT_EQ(Streamed(ByteIds(text)), text);
  }
}

TEST(StreamDecoder, HoldsBackWhatMayBecomeACharacter) {
  const auto ids = ByteIds("\xF0\x9F\x98\x80!");
  StreamDecoder decoder(Demo());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(decoder.Push(ids[static_cast<std::size_t>(i)]), "");
  EXPECT_EQ(decoder.Push(ids[3]), "\xF0\x9F\x98\x80");
  EXPECT_EQ(decoder.Push(ids[4]), "!");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoder, WhatIsIncompleteAtTheEndIsReplacedOnce) {
  StreamDecoder decoder(Demo());
  for (const std::int32_t id : ByteIds("a\xF0\x9F\x98")) decoder.Push(id);
  EXPECT_EQ(decoder.Finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoder, InvalidBytesAreReplacedAsInTheWhole) {
  std::uint64_t state = 7;
  for (int round = 0; round < 200; ++round) {
    std::string bytes;
    for (int i = 0; i < 40; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      constexpr unsigned char kHard[] = {0xF0, 0x9F, 0x80, 0xE2, 0xED, 0xA0, 0xC2, 0xF4, 'a', 0xFF};
      bytes += static_cast<char>(kHard[(state >> 33) % sizeof kHard]);
    }
    EXPECT_EQ(Streamed(ByteIds(bytes)), LossyUtf8(bytes));
    EXPECT_EQ(Streamed(Demo().Encode(bytes)), LossyUtf8(bytes));
  }
}

TEST(StreamDecoder, SpecialTokensGiveNothing) {
  EXPECT_EQ(Streamed(Demo().Encode("<｜User｜>x<｜end▁of▁sentence｜>")), "x");
}

// Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts".
TEST(LossyUtf8, ReplacesMaximalSubparts) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(LossyUtf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                      "A"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(LossyUtf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
                      "A"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(LossyUtf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
                      "A"),
            r + r + r + r + "A");
  EXPECT_EQ(LossyUtf8("\xF4\x91\x92\x93\xFF"
                      "A\x80\xBF"
                      "B"),
            r + r + r + r + r + "A" + r + r + "B");
}

}  // namespace
}  // namespace tandem
