// ctest: unit
#include "runtime/chat.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory/error.h"
#include "runtime/session.h"

namespace tandem {
namespace {

constexpr const char* kDemo = TANDEM_SOURCE_DIR "/model/demo";

struct Split {
  std::string thinking;
  std::string answer;
};

Split SplitIn(const std::string& text, std::size_t piece, bool starts_in_thinking) {
  Split out;
  ThinkingSplitter splitter(starts_in_thinking, [&](std::string_view part, bool thinking) {
    (thinking ? out.thinking : out.answer) += part;
  });
  for (std::size_t at = 0; at < text.size(); at += piece) splitter.Push(text.substr(at, piece));
  splitter.Finish();
  return out;
}

TEST(Thinking, EndsAtItsMarkHoweverTheTextIsCut) {
  const std::string text = "so </thin, hmm</think>Yes. </think> again";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    const Split got = SplitIn(text, piece, true);
    EXPECT_EQ(got.thinking, "so </thin, hmm") << piece;
    EXPECT_EQ(got.answer, "Yes. </think> again") << piece;
  }
  EXPECT_EQ(SplitIn("plain </think> text", 4, false).answer, "plain </think> text");
  EXPECT_EQ(SplitIn("cut short </thi", 4, true).thinking, "cut short </thi");
}

// An engine with the demo model and one conversation on it.
class ConversationTest : public testing::Test {
 protected:
  static Session Open() {
    SessionOptions options;
    options.model_dir = kDemo;
    options.device = "none";
    options.precision = Precision::kExact;
    options.context = 512;
    options.threads = 1;
    return OpenSession(options);
  }
  static Engine Load(Session& session) {
    return Engine(std::move(session.model), std::move(session.plan));
  }

  Conversation MakeConversation(EngineFeed& feed) {
    return Conversation(
        feed, config_, tokenizer_,
        {.format = ChatFormat::kV3,
         .thinking = false,
         .system = "",
         .generate = {
             .sampler = {.temperature = 0}, .max_tokens = 12, .eos_ids = config_.eos_token_ids}});
  }
  static Generated Ask(Conversation& conversation, const std::string& text) {
    return conversation.Answer(
        text, [](std::string_view, bool) {}, [] { return false; });
  }

  Config config_ = ReadConfig(kDemo);
  Tokenizer tokenizer_ = ReadTokenizer(kDemo, config_.vocab_size);
  Session session_ = Open();
  Engine engine_ = Load(session_);
};

TEST_F(ConversationTest, ATurnComputesOnlyWhatIsNewAndAnswersAsAFreshCacheDoes) {
  EngineFeed feed(engine_, 512, [] { return false; });
  Conversation conversation = MakeConversation(feed);
  const Generated first = Ask(conversation, "Who art thou, that speaks so boldly to thy king?");
  const Generated second = Ask(conversation, "And thou?");
  EXPECT_LT(second.prompt_tokens, first.prompt_tokens);

  // The same two turns with nothing cached between them.
  EngineFeed fresh_feed(engine_, 512, [] { return false; });
  Conversation fresh = MakeConversation(fresh_feed);
  EXPECT_EQ(Ask(fresh, "Who art thou, that speaks so boldly to thy king?").ids, first.ids);
  EXPECT_EQ(fresh_feed.KeepPrefix(std::vector<std::int32_t>{-1}), 0);
  const Generated whole = Ask(fresh, "And thou?");
  EXPECT_GT(whole.prompt_tokens, second.prompt_tokens);
  EXPECT_EQ(whole.ids, second.ids);
}

TEST_F(ConversationTest, ATurnThatIsTooLongLeavesTheConversationAsItWas) {
  EngineFeed feed(engine_, 64, [] { return false; });
  Conversation conversation = MakeConversation(feed);
  std::string endless;
  for (int i = 0; i < 200; ++i) endless += "word ";
  EXPECT_THROW(Ask(conversation, endless), UsageError);
  const Generated after = Ask(conversation, "Hark!");
  EngineFeed other_feed(engine_, 64, [] { return false; });
  Conversation other = MakeConversation(other_feed);
  EXPECT_EQ(Ask(other, "Hark!").ids, after.ids);
}

TEST_F(ConversationTest, LongInputIsStoppedBetweenSteps) {
  int asked = 0;
  EngineFeed feed(engine_, 512, [&] { return ++asked > 0; });
  EXPECT_TRUE(feed.Feed(std::vector<std::int32_t>{0, 5, 6}).empty());
  EXPECT_EQ(feed.Room(), 512);
}

TEST_F(ConversationTest, FeedKeepsTheCommonBeginning) {
  EngineFeed feed(engine_, 512, [] { return false; });
  feed.Feed(std::vector<std::int32_t>{0, 5, 6, 7});
  EXPECT_EQ(feed.KeepPrefix(std::vector<std::int32_t>{0, 5, 9}), 2);
  feed.Feed(std::vector<std::int32_t>{9});
  // All of it is cached, but the logits after the last id are wanted.
  EXPECT_EQ(feed.KeepPrefix(std::vector<std::int32_t>{0, 5, 9}), 2);
  const auto logits = feed.Feed(std::vector<std::int32_t>{9});
  const std::vector<float> kept(logits.begin(), logits.end());
  EngineFeed fresh(engine_, 512, [] { return false; });
  const auto expected = fresh.Feed(std::vector<std::int32_t>{0, 5, 9});
  float worst = 0;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    worst = std::max(worst, std::abs(kept[i] - expected[i]));
  }
  EXPECT_LT(worst, 1e-4F);  // other row counts, other order of sums
}

}  // namespace
}  // namespace tandem
