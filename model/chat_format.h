#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/tokenizer.h"

namespace tandem {

// The prompt formats of the DeepSeek models (architectures section 15).
enum class ChatFormat : std::uint8_t { kNone, kV2, kV3, kR1, kV31 };
std::string_view Name(
    ChatFormat format);  // "none", "deepseek-v2", "deepseek-v3", "deepseek-r1", "deepseek-v3.1"

struct ChatMessage {
  enum class Who : std::uint8_t { kSystem, kUser, kAssistant };
  Who who = Who::kUser;
  std::string text;
};

// Chooses the format from the model's family, its special tokens and its chat_template
// (tokenizer_config.json, empty if absent). kNone where the model has no chat tokens at all.
ChatFormat DetectChatFormat(const Config& config, const Tokenizer& tokenizer,
                            std::string_view chat_template);

// chat_template of a model folder's tokenizer_config.json (or chat_template.jinja), or of a GGUF
// file's metadata; empty if there is none.
std::string ReadChatTemplate(const std::string& model_path);

// The format of a model at a path. GGUF files of the older families were often made without a
// template: what is missing there is the format of the architecture.
ChatFormat ReadChatFormat(const std::string& model_path, const Config& config,
                          const Tokenizer& tokenizer);

// The ids of a whole conversation, ending with the prompt for the assistant's next answer. Message
// text is encoded with control tokens off, so that user text never becomes control tokens.
// `thinking` matters for kV31 only (R1 always thinks). Reasoning in assistant history is dropped.
std::vector<std::int32_t> EncodeChat(ChatFormat format, const Config& config,
                                     const Tokenizer& tokenizer,
                                     const std::vector<ChatMessage>& messages, bool thinking);

// Whether the answer begins inside a thinking block (its end is "</think>").
bool StartsInThinking(ChatFormat format, bool thinking);

}  // namespace tandem
