#include "model/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <unordered_map>
#include <utility>

#include "memory/error.h"
#include "memory/file.h"
#include "model/gguf.h"
#include "model/tokenizer_added.h"
#include "model/tokenizer_bytes.h"
#include "model/tokenizer_gguf.h"
#include "model/tokenizer_json.h"
#include "model/utf8.h"

namespace tandem {
namespace {

// Words up to this length are looked up among those encoded before in the same text.
constexpr std::size_t kCachedBytes = 48;

struct TokenText {
  std::string bytes;
  bool used = false;
  bool special = false;
};

// Most added tokens steer the model (<｜User｜>, <think>, whatever `special` says of them).
// DeepSeek's files also add single letters, such as ö: these are text like any other.
bool IsControl(const AddedToken& token) {
  return token.special || StepUtf8(token.content).length < token.content.size();
}

// Where the ids of a word stand in the output.
struct WordIds {
  std::size_t begin;
  std::size_t count;
};

// The memory of one Encode.
struct EncodeState {
  explicit EncodeState(std::size_t text_bytes) : regex(text_bytes) {}

  std::vector<std::int32_t> ids;
  RegexScratch regex;
  Bpe::Scratch bpe;
  std::deque<std::string> added;  // words that do not stand so in the text
  std::unordered_map<std::string_view, WordIds> words;
};

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerSpec read, const std::string& file_name);

  void NameTokens();
  void NameAddedTokens();
  void SetUpMatchers();
  void EncodeParts(std::string_view text, Special special, std::size_t pass,
                   EncodeState& state) const;
  void EncodeText(std::string_view text, EncodeState& state) const;
  void EncodeWord(std::string_view word, EncodeState& state) const;
  void EncodeNewWord(std::string_view word, EncodeState& state) const;
  const TokenText& At(std::int32_t id) const;
  [[noreturn]] void NoToken(unsigned byte) const;

  std::string file;
  TokenizerSpec spec;
  std::vector<TokenText> tokens;  // by id
  std::unordered_map<std::string, std::int32_t> added_ids;
  // [Special][pass]: like the Hugging Face library, tokens that are not `normalized` are found in
  // the whole text first, the others in what is left.
  std::array<std::array<AddedTokenMatcher, 2>, 2> matchers;
};

Tokenizer::Impl::Impl(TokenizerSpec read, const std::string& file_name)
    : file(file_name), spec(std::move(read)) {
  std::int32_t largest = 0;
  for (const auto& [content, id] : spec.vocab) largest = std::max(largest, id);
  for (const AddedToken& token : spec.added) largest = std::max(largest, token.id);
  tokens.resize(static_cast<std::size_t>(largest) + 1);
  NameTokens();
  NameAddedTokens();
  SetUpMatchers();
}

void Tokenizer::Impl::NameTokens() {
  for (const auto& [content, id] : spec.vocab) {
    TokenText& token = tokens[static_cast<std::size_t>(id)];
    if (token.used) {
      Throw<CheckpointError>("{}: model.vocab: {}: id {} is that of another token too", file,
                             QuotedToken(content), id);
    }
    token = {BytesOfContent(content), true, false};
  }
}

// Added tokens are text as it stands, never in the byte alphabet. They may repeat an entry of the
// vocabulary, if with the same id.
void Tokenizer::Impl::NameAddedTokens() {
  for (const AddedToken& added : spec.added) {
    const auto in_vocab = spec.vocab.find(added.content);
    const bool same = in_vocab != spec.vocab.end() && in_vocab->second == added.id;
    TokenText& token = tokens[static_cast<std::size_t>(added.id)];
    if ((token.used && !same) || (in_vocab != spec.vocab.end() && !same)) {
      Throw<CheckpointError>(
          "{}: added_tokens: {} with id {}: the vocabulary or another entry has "
          "this id or this content",
          file, QuotedToken(added.content), added.id);
    }
    if (!added_ids.emplace(added.content, added.id).second) {
      Throw<CheckpointError>("{}: added_tokens: {}: given twice", file, QuotedToken(added.content));
    }
    token = {added.content, true, added.special};
  }
}

void Tokenizer::Impl::SetUpMatchers() {
  for (const AddedToken& added : spec.added) {
    const std::size_t pass = added.normalized ? 1 : 0;
    matchers[static_cast<std::size_t>(Special::kParse)][pass].Add(added);
    if (!IsControl(added)) matchers[static_cast<std::size_t>(Special::kText)][pass].Add(added);
  }
}

void Tokenizer::Impl::EncodeParts(std::string_view text, Special special, std::size_t pass,
                                  EncodeState& state) const {
  const auto& passes = matchers[static_cast<std::size_t>(special)];
  if (pass == passes.size()) return EncodeText(text, state);
  if (passes[pass].empty()) return EncodeParts(text, special, pass + 1, state);
  std::vector<TextPart> parts;
  passes[pass].Split(text, parts);
  for (const TextPart& part : parts) {
    if (part.id != TextPart::kText) {
      state.ids.push_back(part.id);
    } else {
      EncodeParts(part.text, special, pass + 1, state);
    }
  }
}

// The library that defines the ids takes valid UTF-8 only. Here bytes that are none become the
// token of each byte, and what lies between them is encoded as texts of their own: so everything
// decodes to the same bytes.
void Tokenizer::Impl::EncodeText(std::string_view text, EncodeState& state) const {
  while (!text.empty()) {
    const std::size_t valid = ValidUtf8Prefix(text);
    if (valid > 0) {
      const auto words = spec.pre_tokenizer.Split(text.substr(0, valid), state.regex, state.added);
      for (const std::string_view word : words) EncodeWord(word, state);
    }
    text.remove_prefix(valid);
    while (!text.empty() && StepUtf8(text).kind != Utf8Step::Kind::kCharacter) {
      const auto byte = static_cast<unsigned char>(text[0]);
      if (spec.byte_ids[byte] == Bpe::kNone) NoToken(byte);
      state.ids.push_back(spec.byte_ids[byte]);
      text.remove_prefix(1);
    }
  }
}

void Tokenizer::Impl::EncodeWord(std::string_view word, EncodeState& state) const {
  if (word.size() > kCachedBytes) return EncodeNewWord(word, state);
  const std::size_t begin = state.ids.size();
  const auto [at, is_new] = state.words.try_emplace(word, WordIds{begin, 0});
  if (is_new) {
    EncodeNewWord(word, state);
    at->second.count = state.ids.size() - begin;
    return;
  }
  const WordIds& before = at->second;
  for (std::size_t i = 0; i < before.count; ++i) state.ids.push_back(state.ids[before.begin + i]);
}

void Tokenizer::Impl::EncodeNewWord(std::string_view word, EncodeState& state) const {
  if (spec.ignore_merges) {
    const auto whole = spec.vocab.find(ContentOfBytes(word));
    if (whole != spec.vocab.end()) return state.ids.push_back(whole->second);
  }
  const int missing = spec.bpe.Encode(word, state.bpe, state.ids);
  if (missing != Bpe::kNone) NoToken(static_cast<unsigned>(missing));
}

void Tokenizer::Impl::NoToken(unsigned byte) const {
  Throw<UsageError>(
      "the text contains byte 0x{:02x}, which is never part of UTF-8 and for which {} "
      "has no token; give UTF-8 text",
      byte, file);
}

const TokenText& Tokenizer::Impl::At(std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= tokens.size()) {
    Throw<UsageError>("token id {}: expected 0 to {}", id, tokens.size() - 1);
  }
  return tokens[static_cast<std::size_t>(id)];
}

Tokenizer::Tokenizer(std::string_view json, const std::string& file)
    : Tokenizer(ParseTokenizer(json, file), file) {}
Tokenizer::Tokenizer(TokenizerSpec spec, const std::string& file)
    : impl_(std::make_unique<const Impl>(std::move(spec), file)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<std::int32_t> Tokenizer::Encode(std::string_view text, Special special) const {
  if (text.size() > std::numeric_limits<std::int32_t>::max()) {
    Throw<UsageError>("a text of {} bytes: expected at most 2 GiB", text.size());
  }
  EncodeState state(text.size());
  impl_->EncodeParts(text, special, 0, state);
  return std::move(state.ids);
}

std::string Tokenizer::Decode(std::span<const std::int32_t> ids, bool with_special) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    const TokenText& token = impl_->At(id);
    if (with_special || !token.special) bytes += token.bytes;
  }
  return bytes;
}

std::string_view Tokenizer::Bytes(std::int32_t id) const { return impl_->At(id).bytes; }

bool Tokenizer::IsSpecial(std::int32_t id) const { return impl_->At(id).special; }

std::optional<std::int32_t> Tokenizer::Find(std::string_view content) const {
  const std::string key(content);
  const auto added = impl_->added_ids.find(key);
  if (added != impl_->added_ids.end()) return added->second;
  const auto ordinary = impl_->spec.vocab.find(key);
  if (ordinary != impl_->spec.vocab.end()) return ordinary->second;
  return std::nullopt;
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(impl_->tokens.size());
}

namespace {

std::string TokenizerFile(const std::string& model_dir) {
  return (std::filesystem::path(model_dir) / "tokenizer.json").string();
}

Tokenizer OpenTokenizer(const std::string& model_path) {
  if (IsModelFile(model_path)) {
    return {ReadGgufTokenizer(Gguf(model_path).metadata()), model_path};
  }
  const std::string file = TokenizerFile(model_path);
  return {ReadWholeFile(std::filesystem::path(file), kMaxTokenizerBytes), file};
}

}  // namespace

Tokenizer ReadTokenizer(const std::string& model_path, std::int64_t vocab_size) {
  Tokenizer tokenizer = OpenTokenizer(model_path);
  if (tokenizer.vocab_size() > vocab_size) {
    const bool file = IsModelFile(model_path);
    Throw<CheckpointError>("{}: has token ids up to {}, but vocab_size in {} is {}",
                           file ? model_path : TokenizerFile(model_path),
                           tokenizer.vocab_size() - 1, file ? "its metadata" : "config.json",
                           vocab_size);
  }
  return tokenizer;
}

bool HasTokenizer(const std::string& model_path) {
  if (IsModelFile(model_path)) return HasKnownTokenizer(Gguf(model_path).metadata());
  return std::filesystem::exists(TokenizerFile(model_path));
}

std::string StreamDecoder::Push(std::int32_t id) {
  if (!tokenizer_->IsSpecial(id)) pending_ += tokenizer_->Bytes(id);
  return TakeCompleteUtf8(pending_);
}

std::string StreamDecoder::Finish() { return LossyUtf8(std::exchange(pending_, {})); }

}  // namespace tandem
