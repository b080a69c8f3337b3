#include "runtime/chat.h"

#include <cstddef>
#include <span>
#include <utility>

namespace tandem {
namespace {

constexpr std::string_view kEndOfThinking = "</think>";

}  // namespace

ThinkingSplitter::ThinkingSplitter(bool starts_in_thinking, Write write)
    : end_({std::string(kEndOfThinking)}),
      thinking_(starts_in_thinking),
      write_(std::move(write)) {}

void ThinkingSplitter::Push(std::string_view text) {
  if (!thinking_) return Emit(text);
  Emit(end_.Push(text));
  if (!end_.stopped()) return;
  thinking_ = false;
  Emit(end_.rest());
}

void ThinkingSplitter::Finish() {
  if (thinking_) Emit(end_.Finish());
}

void ThinkingSplitter::Emit(std::string_view text) {
  if (!text.empty()) write_(text, thinking_);
}

Conversation::Conversation(EngineFeed& feed, const Config& config, const Tokenizer& tokenizer,
                           Options options)
    : feed_(feed), config_(config), tokenizer_(tokenizer), options_(std::move(options)) {
  Clear();
}

void Conversation::Clear() {
  messages_.clear();
  if (!options_.system.empty()) {
    messages_.push_back({ChatMessage::Who::kSystem, options_.system});
  }
}

Generated Conversation::Answer(const std::string& text, const ThinkingSplitter::Write& write,
                               const std::function<bool()>& interrupted) {
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({ChatMessage::Who::kUser, text});
  const std::vector<std::int32_t> ids =
      EncodeChat(options_.format, config_, tokenizer_, messages, options_.thinking);
  const auto cached = static_cast<std::size_t>(feed_.KeepPrefix(ids));

  ThinkingSplitter splitter(StartsInThinking(options_.format, options_.thinking), write);
  std::string answer;
  const auto on_text = [&](std::string_view piece) {
    answer += piece;
    splitter.Push(piece);
  };
  Generated generated = Generate(feed_, tokenizer_, std::span(ids).subspan(cached),
                                 options_.generate, on_text, interrupted);
  splitter.Finish();
  if (splitter.thinking()) answer += kEndOfThinking;  // cut short: the history drops reasoning
  messages.push_back({ChatMessage::Who::kAssistant, std::move(answer)});
  messages_ = std::move(messages);
  ++options_.generate.sampler.seed;  // another answer to the same words, yet reproducible
  return generated;
}

}  // namespace tandem
