#include "model/tokenizer_gguf.h"

#include "memory/error.h"
#include "model/tokenizer_bytes.h"

namespace tandem {
namespace {

constexpr std::string_view kModel = "tokenizer.ggml.model";
constexpr std::string_view kPre = "tokenizer.ggml.pre";
constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTokenTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";
constexpr std::string_view kBpe = "gpt2";  // ggml's name for byte-level BPE

// ggml's kinds of tokens. Bytes are for tokenizers of another kind.
enum TokenType : std::int64_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

void CheckModel(const GgufMetadata& metadata) {
  const std::string_view model = metadata.String(kModel);
  if (model == kBpe) return;
  Throw<CheckpointError>("{}: {} is not supported, only {} (byte-level BPE)",
                         metadata.Where(kModel), QuotedToken(model), kBpe);
}

void CheckCount(const GgufMetadata& metadata, std::string_view key, std::size_t limit) {
  const GgufValue* value = metadata.Find(key);
  if (value == nullptr) metadata.Missing(key);
  if (value->count <= limit) return;
  Throw<CheckpointError>("{}: {} entries; more than {} are not supported", metadata.Where(key),
                         value->count, limit);
}

// One for each token; all are normal where the file does not say.
std::vector<std::int64_t> TokenTypes(const GgufMetadata& metadata, std::size_t tokens) {
  if (!metadata.Has(kTokenTypes)) return std::vector<std::int64_t>(tokens, kNormal);
  std::vector<std::int64_t> types = metadata.Ints(kTokenTypes);
  if (types.size() == tokens) return types;
  Throw<CheckpointError>("{}: expected {} entries, as many as there are tokens, found {}",
                         metadata.Where(kTokenTypes), tokens, types.size());
}

void AddAdded(std::string_view content, std::int32_t id, bool special, const std::string& where,
              TokenizerSpec& spec) {
  if (content.empty() || content.size() > kMaxAddedBytes) {
    Throw<CheckpointError>("{}: an added token of {} bytes, expected 1 to {}", where,
                           content.size(), kMaxAddedBytes);
  }
  spec.added.push_back({id, std::string(content), special});
}

void ReadToken(std::string_view content, std::int32_t id, std::int64_t type,
               const std::string& where, TokenizerSpec& spec) {
  switch (type) {
    case kNormal:
      if (spec.vocab.emplace(content, id).second) return;
      Throw<CheckpointError>("{}: {} is given twice", where, QuotedToken(content));
    case kUnknown:
    case kControl:
      return AddAdded(content, id, true, where, spec);
    case kUserDefined:
      return AddAdded(content, id, false, where, spec);
    case kUnused:  // fills the vocabulary up to the embedding's rows
      return;
    default:
      Throw<CheckpointError>("{}: token {} has the type {}, expected {} to {}", where,
                             QuotedToken(content), type, static_cast<int>(kNormal),
                             static_cast<int>(kUnused));
  }
}

void ReadTokens(const GgufMetadata& metadata, TokenizerSpec& spec) {
  CheckCount(metadata, kTokens, kMaxTokens);
  const std::vector<std::string_view> tokens = metadata.Strings(kTokens);
  const std::vector<std::int64_t> types = TokenTypes(metadata, tokens.size());
  const std::string list = metadata.Where(kTokens);
  spec.vocab.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    ReadToken(tokens[i], static_cast<std::int32_t>(i), types[i], list, spec);
  }
  if (spec.added.size() > kMaxAddedTokens) {
    Throw<CheckpointError>("{}: {} added tokens; more than {} are not supported", list,
                           spec.added.size(), kMaxAddedTokens);
  }
}

void ReadMerges(const GgufMetadata& metadata, TokenizerSpec& spec) {
  CheckCount(metadata, kMerges, kMaxMerges);
  const std::vector<std::string_view> merges = metadata.Strings(kMerges);
  const std::string list = metadata.Where(kMerges);
  spec.bpe.Reserve(merges.size());
  for (const std::string_view merge : merges) {
    const auto [left, right] = SplitMerge(merge, list);
    AddMerge(left, right, list, spec);
  }
}

}  // namespace

TokenizerSpec ReadGgufTokenizer(const GgufMetadata& metadata) {
  CheckModel(metadata);
  TokenizerSpec spec;
  spec.pre_tokenizer = NamedPreTokenizer(metadata.String(kPre), metadata.Where(kPre));
  ReadTokens(metadata, spec);
  FindByteTokens(metadata.Where(kTokens), spec);
  spec.bpe = Bpe(spec.byte_ids);
  ReadMerges(metadata, spec);
  return spec;
}

bool HasKnownTokenizer(const GgufMetadata& metadata) {
  return metadata.String(kModel, "") == kBpe && IsKnownPreTokenizer(metadata.String(kPre, ""));
}

}  // namespace tandem
