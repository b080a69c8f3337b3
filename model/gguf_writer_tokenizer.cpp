#include "model/gguf_writer_tokenizer.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "memory/error.h"
#include "memory/file.h"
#include "model/chat_format.h"
#include "model/json.h"
#include "model/tokenizer_bytes.h"
#include "model/tokenizer_json.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUserDefined = 4;
constexpr std::int32_t kUnused = 5;
constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
constexpr std::uint64_t kMaxSettingsBytes = std::uint64_t{16} << 20;

// The regular expressions of the Split entries, in order.
std::vector<std::string> SplitPatterns(const JsonFields& root) {
  std::vector<std::string> patterns;
  const auto pre = root.Object("pre_tokenizer");
  const auto list = pre ? pre->Find("pretokenizers") : std::nullopt;
  simdjson::dom::array entries;
  if (!list || list->get(entries) != simdjson::SUCCESS) return patterns;
  for (const simdjson::dom::element entry : entries) {
    simdjson::dom::object object;
    if (entry.get(object) != simdjson::SUCCESS) continue;
    const JsonFields fields(object, root.Where("pre_tokenizer"));
    const auto pattern = fields.Object("pattern");
    if (pattern) patterns.push_back(pattern->String("Regex", ""));
  }
  return patterns;
}

// The families' pre-tokenizers differ in their first two patterns already.
std::string PreName(const JsonFields& root) {
  const std::vector<std::string> p = SplitPatterns(root);
  if (p.size() == 3 && p[0] == R"(\p{N}{1,3})" && p[1].starts_with("[一-龥")) {
    return "deepseek-v3";
  }
  const bool lines = p.size() >= 4 && (p[0] == R"([\r\n])" || p[0] == "[\r\n]");
  if (lines && p[1].starts_with(R"(\s?[A-Za-zµ)")) return "deepseek-llm";
  if (lines && p[1] == R"(\s?\p{L}+)") return "deepseek-coder";
  Throw<CheckpointError>(
      "{}: not one that GGUF has a name for; known are those of deepseek-llm (and V2), "
      "deepseek-coder and deepseek-v3",
      root.Where("pre_tokenizer"));
}

// "left right" of a merge that is written as a list of its two tokens.
std::string Pair(const JsonFields& model, const simdjson::dom::element& entry) {
  simdjson::dom::array halves;
  std::string_view left;
  std::string_view right;
  const bool pair = entry.get(halves) == simdjson::SUCCESS && halves.size() == 2 &&
                    halves.at(0).get(left) == simdjson::SUCCESS &&
                    halves.at(1).get(right) == simdjson::SUCCESS;
  if (!pair) {
    Throw<CheckpointError>("{}: a merge is neither a text nor a list of two",
                           model.Where("merges"));
  }
  return fmt::format("{} {}", left, right);
}

// Merges are written with a space between; no token has one, as the byte alphabet has none.
std::vector<std::string> Merges(const JsonFields& model) {
  std::vector<std::string> merges;
  simdjson::dom::array list;
  if (model.Find("merges")->get(list) != simdjson::SUCCESS) model.Missing("merges");
  merges.reserve(list.size());
  for (const simdjson::dom::element entry : list) {
    std::string_view text;
    if (entry.get(text) == simdjson::SUCCESS) {
      merges.emplace_back(text);
      continue;
    }
    merges.push_back(Pair(model, entry));
  }
  return merges;
}

// Tokenizers mark as ordinary what their templates use as control tokens.
bool LooksControl(std::string_view content) {
  return (content.starts_with("<|") && content.ends_with("|>")) ||
         (content.starts_with("<｜") && content.ends_with("｜>"));
}

void PutToken(GgufVocabulary& vocabulary, std::int64_t id, std::string content, std::int32_t type,
              const std::string& file) {
  if (id >= std::ssize(vocabulary.tokens)) {
    Throw<CheckpointError>("{}: {}: id {} is beyond the embedding's {} rows", file,
                           QuotedToken(content), id, vocabulary.tokens.size());
  }
  vocabulary.tokens[static_cast<std::size_t>(id)] = std::move(content);
  vocabulary.types[static_cast<std::size_t>(id)] = type;
}

void PutTokens(const TokenizerSpec& spec, const Config& config, const std::string& file,
               GgufVocabulary& vocabulary) {
  const auto size = static_cast<std::size_t>(config.vocab_size);
  vocabulary.types.assign(size, kUnused);
  for (std::size_t i = 0; i < size; ++i) vocabulary.tokens.push_back(fmt::format("[PAD{}]", i));
  for (const auto& [content, id] : spec.vocab) PutToken(vocabulary, id, content, kNormal, file);
  for (const AddedToken& token : spec.added) {
    const bool control = token.special || LooksControl(token.content);
    PutToken(vocabulary, token.id, token.content, control ? kControl : kUserDefined, file);
  }
}

// "pad_token": a string, or an object with the string as its content.
std::string TokenNamed(const JsonFields& settings, std::string_view key) {
  const auto value = settings.Find(key);
  std::string_view text;
  if (value && value->get(text) == simdjson::SUCCESS) return std::string(text);
  simdjson::dom::object object;
  if (!value || value->get(object) != simdjson::SUCCESS) return {};
  return JsonFields(object, settings.Where(key)).String("content", "");
}

std::optional<std::int32_t> IdOf(const TokenizerSpec& spec, const std::string& content) {
  for (const AddedToken& token : spec.added) {
    if (token.content == content) return token.id;
  }
  const auto at = spec.vocab.find(content);
  return at == spec.vocab.end() ? std::nullopt : std::optional(at->second);
}

void PutSpecial(const std::string& model_dir, const Config& config, const TokenizerSpec& spec,
                GgufVocabulary& vocabulary) {
  vocabulary.bos = config.bos_token_id;
  if (!config.eos_token_ids.empty()) vocabulary.eos = config.eos_token_ids.front();
  const fs::path path = fs::path(model_dir) / "tokenizer_config.json";
  if (!fs::exists(path)) return;
  const JsonDocument document(ReadWholeFile(path, kMaxSettingsBytes), path.string());
  const JsonFields settings(document.Object(), path.string());
  const auto put = [&](std::optional<std::int32_t>& id, std::string_view key) {
    if (!id) id = IdOf(spec, TokenNamed(settings, key));
  };
  put(vocabulary.bos, "bos_token");
  put(vocabulary.eos, "eos_token");
  put(vocabulary.pad, "pad_token");
}

}  // namespace

GgufVocabulary ReadVocabulary(const std::string& model_dir, const Config& config) {
  const File file = File::OpenInFolder(model_dir, "tokenizer.json");
  const std::string json = ReadWholeFile(file, kMaxTokenizerBytes);
  const TokenizerSpec spec = ParseTokenizer(json, file.path());
  const JsonDocument document(json, file.path());
  const JsonFields root(document.Object(), file.path());
  GgufVocabulary vocabulary;
  vocabulary.pre = PreName(root);
  vocabulary.merges = Merges(*root.Object("model"));
  PutTokens(spec, config, file.path(), vocabulary);
  PutSpecial(model_dir, config, spec, vocabulary);
  vocabulary.chat_template = ReadChatTemplate(model_dir);
  return vocabulary;
}

GgufVocabulary SyntheticVocabulary(const Config& config) {
  constexpr std::size_t kLeast = 256 + 2;
  const auto size = static_cast<std::size_t>(config.vocab_size);
  if (size < kLeast) {
    Throw<ConfigError>("a vocabulary of {} tokens has no room for the 256 bytes, BOS and EOS",
                       size);
  }
  GgufVocabulary vocabulary;
  vocabulary.pre = config.family == Family::kDeepSeekV3 ? "deepseek-v3" : "deepseek-llm";
  auto& tokens = vocabulary.tokens;
  tokens = {std::string(kBos), std::string(kEos)};
  for (unsigned b = 0; b < 256; ++b)
    tokens.emplace_back(ByteCharacter(static_cast<unsigned char>(b)));
  vocabulary.types.assign(size, kNormal);
  vocabulary.types[0] = vocabulary.types[1] = kControl;
  vocabulary.bos = 0;
  vocabulary.eos = 1;
  // Words in the order of their length: each grows by every letter in turn.
  const std::size_t letters = 2 + 'a';
  std::vector<std::size_t> shorter;
  for (std::size_t i = 0; i < 26; ++i) shorter.push_back(letters + i);
  for (std::size_t next = 0; tokens.size() < size; ++next) {
    const std::string stem = tokens[shorter[next]];
    for (char letter = 'a'; letter <= 'z' && tokens.size() < size; ++letter) {
      vocabulary.merges.push_back(stem + ' ' + letter);
      shorter.push_back(tokens.size());
      tokens.push_back(stem + letter);
    }
  }
  return vocabulary;
}

void CopyVocabulary(const GgufMetadata& from, GgufKeyValues& metadata) {
  for (const auto& [key, value] : from.entries()) {
    if (key.starts_with("tokenizer.")) metadata.Add(key, value);
  }
}

void AddVocabulary(const GgufVocabulary& vocabulary, GgufKeyValues& metadata) {
  metadata.Add("tokenizer.ggml.model", "gpt2");
  metadata.Add("tokenizer.ggml.pre", vocabulary.pre);
  metadata.Add("tokenizer.ggml.tokens", std::span<const std::string>(vocabulary.tokens));
  metadata.Add("tokenizer.ggml.token_type", std::span<const std::int32_t>(vocabulary.types));
  metadata.Add("tokenizer.ggml.merges", std::span<const std::string>(vocabulary.merges));
  const auto id = [&](std::string_view key, const std::optional<std::int32_t>& value) {
    if (value) metadata.Add(key, static_cast<std::uint32_t>(*value));
  };
  id("tokenizer.ggml.bos_token_id", vocabulary.bos);
  id("tokenizer.ggml.eos_token_id", vocabulary.eos);
  id("tokenizer.ggml.padding_token_id", vocabulary.pad);
  metadata.Add("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
  metadata.Add("tokenizer.ggml.add_eos_token", false);
  if (!vocabulary.chat_template.empty()) {
    metadata.Add("tokenizer.chat_template", vocabulary.chat_template);
  }
}

}  // namespace tandem
