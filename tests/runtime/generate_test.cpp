// ctest: unit
#include "runtime/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "memory/error.h"
#include "runtime/summary.h"

namespace tandem {
namespace {

constexpr std::int64_t kVocab = 2048;
constexpr std::int32_t kEos = 1;

const Tokenizer& DemoTokenizer() {
  static const Tokenizer tokenizer = ReadTokenizer(TANDEM_SOURCE_DIR "/model/demo", kVocab);
  return tokenizer;
}

// A model that says what it was told to say.
class ScriptedFeed final : public TokenFeed {
 public:
  ScriptedFeed(std::vector<std::int32_t> script, std::int64_t room)
      : script_(std::move(script)), room_(room) {}

  std::span<const float> Feed(std::span<const std::int32_t> tokens) override {
    fed_.insert(fed_.end(), tokens.begin(), tokens.end());
    if (interrupt_at_ == steps_) return {};
    logits_.assign(kVocab, 0.0F);
    logits_[static_cast<std::size_t>(script_.at(steps_++))] = 100;
    return logits_;
  }
  std::int64_t Room() const override { return room_ - std::ssize(fed_); }

  std::vector<std::int32_t> fed_;
  std::size_t interrupt_at_ = SIZE_MAX;

 private:
  std::vector<std::int32_t> script_;
  std::int64_t room_;
  std::vector<float> logits_;
  std::size_t steps_ = 0;
};

struct Outcome {
  Generated generated;
  std::string text;
  std::vector<std::string> pieces;
  std::vector<std::int32_t> fed;
};

Outcome Say(std::vector<std::int32_t> script, GenerateOptions options, std::int64_t room = 1000,
            std::size_t interrupt_at = SIZE_MAX) {
  options.eos_ids = {kEos};
  ScriptedFeed feed(std::move(script), room);
  feed.interrupt_at_ = interrupt_at;
  const std::vector<std::int32_t> prompt = {0, 5, 6};
  Outcome out;
  const auto on_text = [&](std::string_view piece) { out.pieces.emplace_back(piece); };
  out.generated = Generate(feed, DemoTokenizer(), prompt, options, on_text, [] { return false; });
  for (const std::string& piece : out.pieces) out.text += piece;
  out.fed = feed.fed_;
  return out;
}

std::vector<std::int32_t> Script(const std::string& text) {
  std::vector<std::int32_t> ids = DemoTokenizer().Encode(text, Tokenizer::Special::kText);
  ids.push_back(kEos);
  return ids;
}

TEST(Generate, StopsAtEosAndDoesNotPrintIt) {
  const Outcome out = Say(Script("Good morrow, cousin."), {});
  EXPECT_EQ(out.text, "Good morrow, cousin.");
  EXPECT_EQ(out.generated.finish, Finish::kEos);
  EXPECT_EQ(out.generated.prompt_tokens, 3);
  std::vector<std::int32_t> expected = {0, 5, 6};
  expected.insert(expected.end(), out.generated.ids.begin(), out.generated.ids.end());
  EXPECT_EQ(out.fed, expected);
}

TEST(Generate, StopsAtMaxTokensWithoutAStepTooMany) {
  const auto script = Script("one two three four five six");
  const Outcome out = Say(script, {.max_tokens = 3});
  EXPECT_EQ(out.generated.finish, Finish::kMaxTokens);
  EXPECT_EQ(out.generated.ids, std::vector<std::int32_t>(script.begin(), script.begin() + 3));
  EXPECT_EQ(out.fed.size(), 3U + 2U);  // the third token needs no logits after it
  EXPECT_EQ(out.generated.decode_steps, 2);
}

TEST(Generate, StopsWhenTheContextIsFull) {
  const Outcome out = Say(Script("one two three four five six"), {}, /*room=*/5);
  EXPECT_EQ(out.generated.finish, Finish::kContext);
  EXPECT_EQ(out.fed.size(), 5U);
  EXPECT_EQ(out.generated.ids.size(), 3U);
}

TEST(Generate, AnInterruptEndsItWithWhatThereIs) {
  const auto script = Script("one two three four");
  const Outcome out = Say(script, {}, 1000, /*interrupt_at=*/2);
  EXPECT_EQ(out.generated.finish, Finish::kInterrupted);
  EXPECT_EQ(out.generated.ids.size(), 2U);
  EXPECT_EQ(out.text, DemoTokenizer().Decode(out.generated.ids));
}

TEST(Generate, StopStringAcrossTokensIsNeverShown) {
  const std::string text = "To be, or not to be: that is the question";
  for (const std::string stop : {"not to", " that", "question", "o b", ", or no"}) {
    const Outcome out = Say(Script(text), {.stops = {"zzz", stop}});
    EXPECT_EQ(out.text, text.substr(0, text.find(stop)));
    EXPECT_EQ(out.generated.finish, Finish::kStop) << stop;
  }
}

// The demo model has no tokens for these characters, so each takes several.
TEST(Generate, PiecesAreWholeCharactersAndJoinToTheText) {
  const std::string text = "né 中文 👩‍👩‍👧 end";
  const auto script = Script(text);
  ASSERT_GT(script.size(), 20U);
  const Outcome out = Say(script, {});
  EXPECT_EQ(out.text, text);
  for (const std::string& piece : out.pieces) {
    const auto first = static_cast<unsigned char>(piece.front());
    EXPECT_NE(first & 0xC0, 0x80) << "a piece begins inside a character";
  }
}

TEST(Generate, HalfACharacterAtTheEndIsReplaced) {
  auto script = Script("né");
  script.erase(script.end() - 2);  // the last byte of é, before the EOS
  EXPECT_EQ(Say(script, {}).text, "n\uFFFD");
}

TEST(Generate, RefusesPromptsThatAreEmptyOrTooLong) {
  ScriptedFeed feed(Script("x"), /*room=*/2);
  const auto generate = [&](std::vector<std::int32_t> prompt, GenerateOptions options) {
    Generate(
        feed, DemoTokenizer(), prompt, options, [](std::string_view) {}, [] { return false; });
  };
  EXPECT_THROW(generate({}, {}), UsageError);
  EXPECT_THROW(generate({1}, {.max_tokens = 0}), UsageError);
  try {
    generate({1, 2, 3}, {});
    FAIL() << "expected an error";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("3 tokens"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("room for 2"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(feed.fed_.empty());
}

TEST(Summary, NamesEveryNumberOnOneLine) {
  Generated g;
  g.prompt_tokens = 10;
  g.prefill_s = 0.5;
  g.ids = {1, 2, 3};
  g.decode_steps = 2;
  g.decode_s = 0.25;
  g.first_token_s = 0.51;
  g.finish = Finish::kStop;
  EXPECT_EQ(Summary(g, "CPU: everything"),
            "prompt 10 tokens, prefill 20.0 tokens/s; generated 3 tokens (stop string), decode 8.0 "
            "tokens/s; first token after 0.510 s; CPU: everything");
  EXPECT_EQ(TokensPerSecond(0, 1), "-");
}

TEST(Summary, SaysHowManyStepsWereEnqueuedAhead) {
  Metrics m;
  m.steps = 70;
  m.decode_steps = 64;
  m.steps_ahead = 63;
  EXPECT_EQ(StepsAheadText(m), "63 of 64 decode steps enqueued ahead");
}

}  // namespace
}  // namespace tandem
