#include "model/chat_format.h"

#include <filesystem>
#include <optional>

#include "memory/error.h"
#include "memory/file.h"
#include "model/gguf.h"
#include "model/json.h"

namespace tandem {
namespace {

constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
constexpr std::string_view kUser = "<｜User｜>";
constexpr std::string_view kAssistant = "<｜Assistant｜>";
constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";
constexpr std::uint64_t kMaxTemplateBytes = std::uint64_t{16} << 20;

using Who = ChatMessage::Who;

// The text after {{ or before }} of the template's expression around `at`; empty if `at` is not in
// an expression that is written out.
std::string_view OutputAround(std::string_view chat_template, std::size_t at) {
  const std::size_t begin = chat_template.rfind("{{", at);
  if (begin == std::string_view::npos) return {};
  const std::size_t end = chat_template.find("}}", begin);
  if (end == std::string_view::npos || end < at) return {};
  return chat_template.substr(begin, end - begin);
}

// Whether the template writes a string literal that ends with `text`.
bool Writes(std::string_view chat_template, std::string_view text) {
  for (const char quote : {'\'', '"'}) {
    const std::string ending = std::string(text) + quote;
    std::size_t at = chat_template.find(ending);
    for (; at != std::string_view::npos; at = chat_template.find(ending, at + 1)) {
      const std::string_view output = OutputAround(chat_template, at);
      const bool tested = output.find("split") != std::string_view::npos;
      if (!output.empty() && !tested) return true;
    }
  }
  return false;
}

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Builds the ids of a prompt. Text is collected until a control token follows, so that it is split
// into words as a whole.
class Prompt {
 public:
  Prompt(const Config& config, const Tokenizer& tokenizer)
      : config_(config), tokenizer_(tokenizer) {}

  void Text(std::string_view text) { text_ += text; }

  void Token(std::string_view content) {
    const auto id = tokenizer_.Find(content);
    if (!id) Missing(content);
    Id(*id);
  }

  void Bos() {
    const auto id = tokenizer_.Find(kBos);
    if (!id && !config_.bos_token_id) Missing(kBos);
    Id(id ? *id : *config_.bos_token_id);
  }

  void Eos() {
    const auto id = tokenizer_.Find(kEos);
    if (!id && config_.eos_token_ids.empty()) Missing(kEos);
    Id(id ? *id : config_.eos_token_ids.front());
  }

  std::vector<std::int32_t> Take() {
    Flush();
    return std::move(ids_);
  }

 private:
  [[noreturn]] static void Missing(std::string_view content) {
    Throw<CheckpointError>("the tokenizer has no token '{}', which the chat format needs", content);
  }

  void Id(std::int32_t id) {
    Flush();
    ids_.push_back(id);
  }

  void Flush() {
    const auto ids = tokenizer_.Encode(text_, Tokenizer::Special::kText);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    text_.clear();
  }

  const Config& config_;
  const Tokenizer& tokenizer_;
  std::string text_;
  std::vector<std::int32_t> ids_;
};

// An answer follows a question, and the last word is the user's: anything else has no prompt.
void CheckOrder(const std::vector<ChatMessage>& messages) {
  std::optional<Who> last;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].who == Who::kSystem) continue;
    if (messages[i].who == Who::kAssistant && last != Who::kUser) {
      Throw<UsageError>("message {}: an assistant message must follow a user message", i);
    }
    last = messages[i].who;
  }
  if (last != Who::kUser) {
    throw UsageError("the conversation must end with a user message, for the model to answer");
  }
}

// Reasoning comes before </think>. R1's template takes what follows the last one, V3.1's the first.
std::string_view WithoutReasoning(ChatFormat format, std::string_view answer) {
  std::size_t at = std::string_view::npos;
  if (format == ChatFormat::kR1) at = answer.rfind(kEndThink);
  if (format == ChatFormat::kV31) at = answer.find(kEndThink);
  return at == std::string_view::npos ? answer : answer.substr(at + kEndThink.size());
}

// BOS{system}\n\nUser: {u}\n\nAssistant: {a}EOSUser: {u}\n\nAssistant:
void WriteV2(const std::vector<ChatMessage>& messages, Prompt& prompt) {
  for (const ChatMessage& message : messages) {
    switch (message.who) {
      case Who::kSystem:
        prompt.Text(message.text);
        prompt.Text("\n\n");
        break;
      case Who::kUser:
        prompt.Text("User: ");
        prompt.Text(message.text);
        prompt.Text("\n\n");
        break;
      case Who::kAssistant:
        prompt.Text("Assistant: ");
        prompt.Text(message.text);
        prompt.Eos();
        break;
    }
  }
  prompt.Text("Assistant:");
}

void WriteSystem(const std::vector<ChatMessage>& messages, Prompt& prompt) {
  bool first = true;
  for (const ChatMessage& message : messages) {
    if (message.who != Who::kSystem) continue;
    if (!first) prompt.Text("\n\n");
    prompt.Text(message.text);
    first = false;
  }
}

// BOS{system}<｜User｜>{u}<｜Assistant｜>{a}EOS<｜User｜>{u}<｜Assistant｜>; V3.1 has </think>
// before each earlier answer.
void WriteV3(ChatFormat format, const std::vector<ChatMessage>& messages, Prompt& prompt) {
  WriteSystem(messages, prompt);
  for (const ChatMessage& message : messages) {
    if (message.who == Who::kUser) {
      prompt.Token(kUser);
      prompt.Text(message.text);
    } else if (message.who == Who::kAssistant) {
      prompt.Token(kAssistant);
      if (format == ChatFormat::kV31) prompt.Token(kEndThink);
      prompt.Text(WithoutReasoning(format, message.text));
      prompt.Eos();
    }
  }
  prompt.Token(kAssistant);
}

void WriteThinking(ChatFormat format, bool thinking, Prompt& prompt) {
  if (format == ChatFormat::kR1) {
    prompt.Token(kThink);
    prompt.Text("\n");
  } else if (format == ChatFormat::kV31) {
    prompt.Token(thinking ? kThink : kEndThink);
  }
}

// A template is a string, or a list of {"name": .., "template": ..} of which "default" is for chat.
std::string TemplateOf(const JsonFields& fields) {
  const auto value = fields.Find("chat_template");
  simdjson::dom::array list;
  if (!value || value->get(list) != simdjson::SUCCESS) return fields.String("chat_template", "");
  for (const simdjson::dom::element entry : list) {
    simdjson::dom::object object;
    if (entry.get(object) != simdjson::SUCCESS) continue;
    const JsonFields named(object, fields.Where("chat_template"));
    if (named.String("name", "") == "default") return named.String("template", "");
  }
  return {};
}

}  // namespace

std::string_view Name(ChatFormat format) {
  switch (format) {
    case ChatFormat::kNone:
      return "none";
    case ChatFormat::kV2:
      return "deepseek-v2";
    case ChatFormat::kV3:
      return "deepseek-v3";
    case ChatFormat::kR1:
      return "deepseek-r1";
    case ChatFormat::kV31:
      return "deepseek-v3.1";
  }
  return "none";
}

ChatFormat DetectChatFormat(const Config& config, const Tokenizer& tokenizer,
                            std::string_view chat_template) {
  if (tokenizer.Find(kUser) && tokenizer.Find(kAssistant)) {
    const bool thinks = tokenizer.Find(kThink) && tokenizer.Find(kEndThink);
    // A template that closes the reasoning itself can do without; R1's always opens it. In the
    // template's source the line feed is written \n, or stands there as such.
    if (thinks && Writes(chat_template, kEndThink)) return ChatFormat::kV31;
    const bool opens = Writes(chat_template, "<think>\\n") || Writes(chat_template, "<think>\n");
    return thinks && opens ? ChatFormat::kR1 : ChatFormat::kV3;
  }
  const bool named = Contains(chat_template, "User: ") && Contains(chat_template, "Assistant:");
  return named && config.family != Family::kDeepSeekV3 ? ChatFormat::kV2 : ChatFormat::kNone;
}

std::string ReadChatTemplate(const std::string& model_path) {
  if (IsModelFile(model_path)) {
    return std::string(Gguf(model_path).metadata().String("tokenizer.chat_template", ""));
  }
  const std::filesystem::path folder(model_path);
  const std::filesystem::path jinja = folder / "chat_template.jinja";
  if (std::filesystem::exists(jinja)) return ReadWholeFile(jinja, kMaxTemplateBytes);
  const std::filesystem::path json = folder / "tokenizer_config.json";
  if (!std::filesystem::exists(json)) return {};
  const JsonDocument document(ReadWholeFile(json, kMaxTemplateBytes), json.string());
  return TemplateOf(JsonFields(document.Object(), json.string()));
}

ChatFormat ReadChatFormat(const std::string& model_path, const Config& config,
                          const Tokenizer& tokenizer) {
  const std::string chat_template = ReadChatTemplate(model_path);
  const ChatFormat format = DetectChatFormat(config, tokenizer, chat_template);
  const bool older = config.family != Family::kDeepSeekV3;
  const bool silent = IsModelFile(model_path) && chat_template.empty();
  return format == ChatFormat::kNone && older && silent ? ChatFormat::kV2 : format;
}

std::vector<std::int32_t> EncodeChat(ChatFormat format, const Config& config,
                                     const Tokenizer& tokenizer,
                                     const std::vector<ChatMessage>& messages, bool thinking) {
  if (format == ChatFormat::kNone) {
    throw UsageError("this model has no chat format; give a plain prompt instead");
  }
  CheckOrder(messages);
  Prompt prompt(config, tokenizer);
  prompt.Bos();
  if (format == ChatFormat::kV2) {
    WriteV2(messages, prompt);
  } else {
    WriteV3(format, messages, prompt);
    WriteThinking(format, thinking, prompt);
  }
  return prompt.Take();
}

bool StartsInThinking(ChatFormat format, bool thinking) {
  return format == ChatFormat::kR1 || (format == ChatFormat::kV31 && thinking);
}

}  // namespace tandem
