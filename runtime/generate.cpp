#include "runtime/generate.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>

#include "memory/error.h"
#include "runtime/stop.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Ids in, certain text out.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops,
             const std::function<void(std::string_view)>& on_text)
      : decoder_(tokenizer), filter_(stops), on_text_(on_text) {}

  // False once a stop string is complete.
  bool Push(std::int32_t id) {
    Emit(filter_.Push(decoder_.Push(id)));
    return !filter_.stopped();
  }
  void Finish() {
    Emit(filter_.Push(decoder_.Finish()));
    if (!filter_.stopped()) Emit(filter_.Finish());
  }

 private:
  void Emit(const std::string& text) {
    if (!text.empty()) on_text_(text);
  }

  StreamDecoder decoder_;
  StopFilter filter_;
  const std::function<void(std::string_view)>& on_text_;  // outlives the stream
};

// The state of one call of Generate.
class Generation {
 public:
  Generation(TokenFeed& feed, const Tokenizer& tokenizer, const GenerateOptions& options,
             const std::function<void(std::string_view)>& on_text,
             const std::function<bool()>& interrupted)
      : feed_(feed),
        options_(options),
        interrupted_(interrupted),
        sampler_(options.sampler),
        stream_(tokenizer, options.stops, on_text) {}

  Generated Run(std::span<const std::int32_t> prompt) {
    const std::int64_t room = feed_.Room();
    next_ = Feed(prompt);
    out_.prefill_s = SecondsSince(start_);
    out_.prompt_tokens = room - feed_.Room();  // fewer than the prompt's if interrupted
    const auto decode_start = Clock::now();
    std::optional<Finish> finish;
    while (!finish) finish = NextToken();
    feed_.Rest();
    out_.finish = *finish;
    out_.decode_s = SecondsSince(decode_start);
    stream_.Finish();
    return std::move(out_);
  }

 private:
  // Feeds and samples the token after it; nullopt if interrupted.
  std::optional<std::int32_t> Feed(std::span<const std::int32_t> tokens) {
    feed_.ExpectAnother(std::ssize(out_.ids) + 1 < options_.max_tokens &&
                        feed_.Room() > std::ssize(tokens));
    if (options_.sampler.temperature == 0) return feed_.FeedGreedy(tokens);
    const std::span<const float> logits = feed_.Feed(tokens);
    if (logits.empty()) return std::nullopt;
    return sampler_.Sample(logits);
  }

  // Takes one token and computes the next one, unless the answer ends here.
  std::optional<Finish> NextToken() {
    if (!next_ || interrupted_()) return Finish::kInterrupted;
    const std::int32_t id = *next_;
    if (out_.first_token_s == 0) out_.first_token_s = SecondsSince(start_);
    if (std::ranges::find(options_.eos_ids, id) != options_.eos_ids.end()) return Finish::kEos;
    out_.ids.push_back(id);
    if (!stream_.Push(id)) return Finish::kStop;
    if (std::ssize(out_.ids) >= options_.max_tokens) return Finish::kMaxTokens;
    if (feed_.Room() < 1) return Finish::kContext;
    next_ = Feed(std::span(&id, 1));
    if (next_) ++out_.decode_steps;
    return std::nullopt;
  }

  TokenFeed& feed_;
  const GenerateOptions& options_;
  const std::function<bool()>& interrupted_;
  Sampler sampler_;
  TextStream stream_;
  Clock::time_point start_ = Clock::now();
  std::optional<std::int32_t> next_;
  Generated out_;
};

}  // namespace

std::optional<std::int32_t> TokenFeed::FeedGreedy(std::span<const std::int32_t> tokens) {
  const std::span<const float> logits = Feed(tokens);
  if (logits.empty()) return std::nullopt;
  return GreedyToken(logits);
}

std::string_view Name(Finish finish) {
  constexpr std::array<std::string_view, 5> kNames = {"end of text", "stop string", "--max-tokens",
                                                      "context full", "interrupted"};
  return kNames[static_cast<std::size_t>(finish)];
}

void CheckPrompt(std::span<const std::int32_t> prompt, std::int64_t room) {
  if (prompt.empty()) throw UsageError("the prompt is empty: expected at least one token");
  if (std::ssize(prompt) > room) {
    Throw<UsageError>(
        "the prompt has {} tokens, the context has room for {}: raise --ctx or "
        "shorten the prompt",
        prompt.size(), room);
  }
}

Generated Generate(TokenFeed& feed, const Tokenizer& tokenizer,
                   std::span<const std::int32_t> prompt, const GenerateOptions& options,
                   const std::function<void(std::string_view)>& on_text,
                   const std::function<bool()>& interrupted) {
  CheckPrompt(prompt, feed.Room());
  if (options.max_tokens < 1) {
    Throw<UsageError>("--max-tokens: expected 1 or more, found {}", options.max_tokens);
  }
  return Generation(feed, tokenizer, options, on_text, interrupted).Run(prompt);
}

}  // namespace tandem
