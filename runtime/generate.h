#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"
#include "runtime/sampler.h"

namespace tandem {

// One growing sequence of tokens: the engine behind it, or a fake in tests.
class TokenFeed {
 public:
  virtual ~TokenFeed() = default;
  // Appends tokens and gives the logits after the last one, valid until the next call. Empty if the
  // user interrupted the work; what was appended until then stays.
  virtual std::span<const float> Feed(std::span<const std::int32_t> tokens) = 0;
  // The same for a caller who takes the token with the largest logit; nullopt if interrupted.
  virtual std::optional<std::int32_t> FeedGreedy(std::span<const std::int32_t> tokens);
  // Whether a single token is likely to follow those that are fed from here on, so that their step
  // may prepare for it; and that none follows for now, whatever was expected.
  virtual void ExpectAnother(bool expected) { static_cast<void>(expected); }
  virtual void Rest() {}
  // How many more tokens can be appended.
  virtual std::int64_t Room() const = 0;
};

struct GenerateOptions {
  SamplerOptions sampler = {};
  std::int64_t max_tokens = 256;
  std::vector<std::string> stops = {};
  std::vector<std::int32_t> eos_ids = {};
};

enum class Finish : std::uint8_t { kEos, kStop, kMaxTokens, kContext, kInterrupted };
std::string_view Name(Finish finish);  // "end of text", "stop string", ...

struct Generated {
  std::vector<std::int32_t> ids;  // without the EOS
  Finish finish = Finish::kEos;
  std::int64_t prompt_tokens = 0;  // that were computed, not those found in the cache
  double prefill_s = 0;
  double first_token_s = 0;       // from the call to the first token
  std::int64_t decode_steps = 0;  // steps after the prefill, and the time that they took
  double decode_s = 0;
};

// Throws UsageError for a prompt that is empty or longer than `room`, naming both lengths.
void CheckPrompt(std::span<const std::int32_t> prompt, std::int64_t room);

// Feeds the prompt, then samples and feeds until EOS, a stop string, max_tokens, the end of the
// context or an interrupt. `on_text` gets whole UTF-8 characters that are certain to stay, so that
// the pieces join to the text of the whole answer.
Generated Generate(TokenFeed& feed, const Tokenizer& tokenizer,
                   std::span<const std::int32_t> prompt, const GenerateOptions& options,
                   const std::function<void(std::string_view)>& on_text,
                   const std::function<bool()>& interrupted);

}  // namespace tandem
