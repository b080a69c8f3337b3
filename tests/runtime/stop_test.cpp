// ctest: unit
#include "runtime/stop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "memory/error.h"
#include "runtime/sampler.h"

namespace tandem {
namespace {

// The oracle: cuts at the stop string that ends first, the longest of those that end there.
std::string CutAtStop(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      if (std::string_view(text).substr(0, end).ends_with(stop)) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

// Pieces of 1 to `most` bytes; checks after each that nothing came out that the whole would not.
std::string Stream(const std::string& text, const std::vector<std::string>& stops,
                   std::uint64_t seed, std::size_t most) {
  StopFilter filter(stops);
  Random random(seed);
  std::string out;
  for (std::size_t at = 0; at < text.size() && !filter.stopped();) {
    const std::size_t length = 1 + random.Next() % most;
    out += filter.Push(std::string_view(text).substr(at, length));
    EXPECT_TRUE(CutAtStop(text, stops).starts_with(out)) << "after byte " << at << ": " << out;
    at += length;
  }
  if (!filter.stopped()) out += filter.Finish();
  return out;
}

TEST(StopFilter, WithoutStopsTextPassesAtOnce) {
  StopFilter filter({});
  EXPECT_EQ(filter.Push("abc"), "abc");
  EXPECT_EQ(filter.Finish(), "");
  EXPECT_FALSE(filter.stopped());
}

// F38
TEST(StopFilter, HoldsBackWhatMayBecomeAStop) {
  StopFilter filter({"\nUser:"});
  EXPECT_EQ(filter.Push("hello\nUs"), "hello");
  EXPECT_EQ(filter.Push("ual"), "\nUsual");
  EXPECT_EQ(filter.Push("\nUser"), "");
  EXPECT_EQ(filter.Push(": more"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.rest(), " more");
  EXPECT_EQ(filter.Push("x"), "");
  EXPECT_EQ(filter.Finish(), "");
}

TEST(StopFilter, HeldTextComesOutAtTheEnd) {
  StopFilter filter({"END"});
  EXPECT_EQ(filter.Push("the EN"), "the ");
  EXPECT_EQ(filter.Finish(), "EN");
}

TEST(StopFilter, AnyCutGivesTheSameText) {
  const std::vector<std::vector<std::string>> sets = {{"ab"},   {"aab", "ba"},  {"abab", "bb"},
                                                      {"aaaa"}, {"abcd", "bc"}, {"é", "\nx"}};
  Random random(5);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (int n = 0; n < 24; ++n) text += "aabbc\nxd"[random.Next() % 8];
    if (i % 5 == 0) text.insert(text.size() / 2, "é");
    for (const auto& stops : sets) {
      for (const std::size_t most : {1U, 3U, 30U}) {
        ASSERT_EQ(Stream(text, stops, random.Next(), most), CutAtStop(text, stops)) << text;
      }
    }
  }
}

TEST(StopFilter, AnEmptyStopIsRefused) { EXPECT_THROW(StopFilter({"a", ""}), UsageError); }

}  // namespace
}  // namespace tandem
