#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat_format.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "runtime/engine_feed.h"
#include "runtime/generate.h"
#include "runtime/stop.h"

namespace tandem {

// Separates an answer's thinking from the rest while it streams.
class ThinkingSplitter {
 public:
  using Write = std::function<void(std::string_view text, bool thinking)>;
  ThinkingSplitter(bool starts_in_thinking, Write write);
  void Push(std::string_view text);
  void Finish();
  // True until "</think>" was seen, if the answer began in thinking.
  bool thinking() const { return thinking_; }

 private:
  void Emit(std::string_view text);

  StopFilter end_;
  bool thinking_;
  Write write_;
};

// A conversation with its KV cache: each turn computes only what the turns before have not.
class Conversation {
 public:
  struct Options {
    ChatFormat format = ChatFormat::kNone;
    bool thinking = false;
    std::string system;
    GenerateOptions generate;
  };
  // The references outlive the conversation.
  Conversation(EngineFeed& feed, const Config& config, const Tokenizer& tokenizer, Options options);

  // Streams the answer to `text`. A turn that throws leaves the conversation as it was.
  Generated Answer(const std::string& text, const ThinkingSplitter::Write& write,
                   const std::function<bool()>& interrupted);
  void Clear();  // forgets all but the system message

 private:
  EngineFeed& feed_;
  const Config& config_;
  const Tokenizer& tokenizer_;
  Options options_;
  std::vector<ChatMessage> messages_;
};

}  // namespace tandem
