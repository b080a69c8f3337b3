// ctest: unit
#include "model/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <vector>

#include "memory/error.h"
#include "model/pre_tokenizer_pattern.h"
#include "model/pre_tokenizer_unicode.h"
#include "model/utf8.h"

namespace tandem {
namespace {

using Pieces = std::vector<std::string>;

Pieces Split(const std::string& pattern, SplitBehavior behavior, bool invert,
             const std::string& text) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.Add({Regex(PatternForPcre(pattern, "test"), "test"), behavior, invert});
  RegexScratch scratch(text.size());
  std::deque<std::string> added;
  Pieces pieces;
  for (const auto piece : pre_tokenizer.Split(text, scratch, added)) pieces.emplace_back(piece);
  return pieces;
}

Pieces Isolated(const std::string& pattern, const std::string& text) {
  return Split(pattern, SplitBehavior::kIsolated, false, text);
}

std::string Message(const std::string& pattern) {
  try {
    Regex(PatternForPcre(pattern, "file: entry"), "file: entry");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no error";
}

TEST(PreTokenizer, Behaviors) {
  const std::string text = "--a-b-";
  EXPECT_EQ(Split("-", SplitBehavior::kIsolated, false, text),
            (Pieces{"-", "-", "a", "-", "b", "-"}));
  EXPECT_EQ(Split("-", SplitBehavior::kRemoved, false, text), (Pieces{"a", "b"}));
  EXPECT_EQ(Split("-", SplitBehavior::kMergedWithPrevious, false, text),
            (Pieces{"-", "-", "a-", "b-"}));
  EXPECT_EQ(Split("-", SplitBehavior::kMergedWithNext, false, text),
            (Pieces{"-", "-a", "-b", "-"}));
  EXPECT_EQ(Split("-", SplitBehavior::kContiguous, false, text),
            (Pieces{"--", "a", "-", "b", "-"}));
  EXPECT_EQ(Split("-", SplitBehavior::kRemoved, true, text), (Pieces{"-", "-", "-", "-"}));
}

TEST(PreTokenizer, StagesSeeNothingOfNeighbours) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.Add({Regex("[\\r\\n]", "test")});
  pre_tokenizer.Add({Regex(PatternForPcre("\\s+(?!\\S)", "test"), "test")});
  RegexScratch scratch(10);
  std::deque<std::string> added;
  const auto pieces = pre_tokenizer.Split("a  \nb  c", scratch, added);
  EXPECT_EQ(Pieces(pieces.begin(), pieces.end()), (Pieces{"a", "  ", "\n", "b", " ", " c"}));
}

TEST(Pattern, LineEndsAreThoseOfOniguruma) {
  EXPECT_EQ(Isolated("\\s+$", "  a  \n  b  "), (Pieces{"  a", "  ", "\n  b", "  "}));
  EXPECT_EQ(Isolated("\\s+$", "  a  \n\n "), (Pieces{"  a", "  \n\n "}));
  EXPECT_EQ(Isolated("^a", "a\na\nba"), (Pieces{"a", "\n", "a", "\nba"}));
  EXPECT_EQ(Isolated("a.c", "a\nc abc"), (Pieces{"a\nc ", "abc"}));
}

TEST(Pattern, EmptyMatchesSeparate) { EXPECT_EQ(Isolated("a*", "baac"), (Pieces{"b", "aa", "c"})); }

TEST(Pattern, TheQuickFormOfTrailingSpaceEqualsThePlainOne) {
  const std::string plain = "(?:\\s)+$";  // not rewritten
  for (unsigned bits = 0; bits < 6561; ++bits) {
    std::string text;
    for (unsigned rest = bits, i = 0; i < 8; ++i, rest /= 3) text += " \nx"[rest % 3];
    ASSERT_EQ(Isolated("\\s+$", text), Isolated(plain, text)) << text;
  }
}

TEST(Pattern, WhiteSpaceIsThatOfUnicode) {
  const std::string spaces =
      "\t\n\v\f\r \u0085\u00A0\u1680\u2000\u200A\u2028\u2029\u202F\u205F\u3000";
  EXPECT_EQ(Isolated("\\s+", "a" + spaces + "b"), (Pieces{"a", spaces, "b"}));
  EXPECT_EQ(Isolated("[^\\S\\n]+", "a \nb"), (Pieces{"a", " ", "\nb"}));
  for (const char* no_space : {"\u180E", "\u200B", "\uFEFF", "\x1C"}) {
    EXPECT_EQ(Isolated("\\S+", no_space), Isolated("x", no_space)) << no_space;
  }
}

TEST(Pattern, CategoriesAreThoseOfUnicode16) {
  EXPECT_EQ(Isolated("\\p{L}+", "a\uA7CB\U000105C0."), (Pieces{"a\uA7CB\U000105C0", "."}));
  EXPECT_EQ(Isolated("[\\p{S}]", "\U0001FAE8x"), (Pieces{"\U0001FAE8", "x"}));  // Unicode 15
  EXPECT_EQ(Isolated("\\p{N}", "\U00010D40x"), (Pieces{"\U00010D40", "x"}));    // Unicode 16
  EXPECT_EQ(Isolated("\\P{M}", "\u0897x"), (Pieces{"\u0897", "x"}));
}

TEST(Pattern, WhiteSpaceClassesAgree) {
  const Regex space(fmt::format("[{}]", WhiteSpaceClass()), "test");
  const Regex no_space(fmt::format("[{}]", NoWhiteSpaceClass()), "test");
  RegexScratch scratch(4);
  for (char32_t point = 0; point < 0x110000; ++point) {
    if (point >= 0xD800 && point < 0xE000) continue;
    std::string text;
    AppendUtf8(point, text);
    ASSERT_EQ(space.Find(text, 0, scratch).has_value(), IsWhiteSpace(point)) << unsigned{point};
    ASSERT_EQ(no_space.Find(text, 0, scratch).has_value(), !IsWhiteSpace(point)) << unsigned{point};
  }
}

TEST(Pattern, WhatDiffersBetweenTheEnginesIsRefused) {
  for (const char* pattern :
       {"\\w",    "\\b",         "\\h",      "\\R",         "\\1",    "[a[bc]]",
        "[a&&b]", "[[:alpha:]]", "\\p{Han}", "\\p{^L}",     "(?m:a)", "(?<n>a)",
        "a{2}+",  "a{2}?",       "a{2,3}*",  "{",           "a{x}",   "[]a]",
        "\\xE9",  "(*UTF)",      "[\\w]",    "\\x{110000}", "\\u12"}) {
    const std::string message = Message(pattern);
    EXPECT_NE(message.find("is not supported"), std::string::npos) << pattern << ": " << message;
    EXPECT_NE(message.find("file: entry"), std::string::npos) << message;
  }
  for (const char* pattern : {"(", "[a", "a\\", "*", "\\p{L", "[\\"}) {
    EXPECT_NE(Message(pattern), "no error") << pattern;
  }
}

TEST(Pattern, LiteralsMatchThemselvesOnly) {
  const Regex regex(LiteralPattern("a.é[中"), "test");
  RegexScratch scratch(32);
  const std::string text = "axé[中a.é[中";
  const auto match = regex.Find(text, 0, scratch);
  ASSERT_TRUE(match);
  EXPECT_EQ(text.substr(match->begin), "a.é[中");
}

// Without a limit this takes 2^60 steps.
TEST(Pattern, BacktrackingWithoutEndIsAnError) {
  const std::string text = std::string(60, 'a') + "b";
  EXPECT_THROW(Isolated("(?:a+)+$", text), CheckpointError);
}

TEST(Pattern, FindsMatchesFarAway) {
  const std::string far = std::string(100'000, 'x') + "é-" + std::string(50'000, 'x');
  EXPECT_EQ(Isolated("-", far).size(), 3u);
  std::string wide;  // no window ends on a character's first byte for all three offsets
  for (int i = 0; i < 20'000; ++i) wide += "中";
  for (const char* before : {"", "a", "ab"})
    EXPECT_EQ(Isolated("-", before + wide + "-").size(), 2u);
}

}  // namespace
}  // namespace tandem
