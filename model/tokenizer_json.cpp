#include "model/tokenizer_json.h"

#include <algorithm>
#include <optional>

#include "memory/error.h"
#include "model/json.h"
#include "model/tokenizer_bytes.h"
#include "model/tokenizer_pre.h"

namespace tandem {
namespace {

using simdjson::dom::element;

constexpr IntRange kIdRange{0, kMaxTokens - 1};

std::string_view Text(const element& value, const std::string& where) {
  std::string_view text;
  if (value.get(text) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected a string, found {}", where, Shown(value));
  }
  return text;
}

simdjson::dom::array List(const element& value, const std::string& where) {
  simdjson::dom::array list;
  if (value.get(list) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected a list, found {}", where, Shown(value));
  }
  return list;
}

// A parameter of the BPE model that must be null, false, 0 or "": any other value is refused by
// name.
void RequireUnset(const JsonFields& model, std::string_view key) {
  const auto value = model.Find(key);
  if (!value) return;
  const std::string shown = Shown(*value);
  if (shown == "false" || shown == "\"\"" || WholeNumber(*value) == 0) return;
  Throw<CheckpointError>("{}: {} is not supported, only a model without it", model.Where(key),
                         shown);
}

void CheckModel(const JsonFields& model) {
  // Old files do not say the type; only BPE has both a vocabulary and merges.
  const std::string type = model.String("type", "BPE");
  if (type != "BPE") {
    Throw<CheckpointError>("{}: '{}' is not supported, only byte-level BPE", model.Where("type"),
                           type);
  }
  for (const std::string_view key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    RequireUnset(model, key);
  }
  // unk_token and fuse_unk may say anything: with a token for every byte nothing is unknown.
}

void CheckCount(std::size_t count, std::size_t limit, const std::string& where) {
  if (count <= limit) return;
  Throw<CheckpointError>("{}: {} entries; more than {} are not supported", where, count, limit);
}

void ReadVocab(const JsonFields& model, TokenizerSpec& spec) {
  const auto value = model.Find("vocab");
  if (!value) model.Missing("vocab");
  const std::string where = model.Where("vocab");
  simdjson::dom::object entries;
  if (value->get(entries) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected an object, found {}", where, Shown(*value));
  }
  CheckCount(entries.size(), kMaxTokens, where);
  spec.vocab.reserve(entries.size());
  for (const auto& [content, id] : entries) {
    const auto number = WholeNumber(id);
    if (!number || *number < kIdRange.low || *number > kIdRange.high) {
      Throw<CheckpointError>("{}: {}: expected an id from {} to {}, found {}", where,
                             QuotedToken(content), kIdRange.low, kIdRange.high, Shown(id));
    }
    if (!spec.vocab.emplace(content, static_cast<std::int32_t>(*number)).second) {
      Throw<CheckpointError>("{}: {}: given twice", where, QuotedToken(content));
    }
  }
}

// "a b", or in newer files ["a", "b"].
std::pair<std::string_view, std::string_view> MergePair(const element& entry,
                                                        const std::string& where) {
  std::string_view both;
  if (entry.get(both) == simdjson::SUCCESS) return SplitMerge(both, where);
  simdjson::dom::array list;
  if (entry.get(list) != simdjson::SUCCESS || list.size() != 2) {
    Throw<CheckpointError>("{}: expected a pair of tokens, found {}", where, Shown(entry));
  }
  return {Text(list.at(0).value(), where), Text(list.at(1).value(), where)};
}

void ReadMerges(const JsonFields& model, TokenizerSpec& spec) {
  const auto value = model.Find("merges");
  if (!value) model.Missing("merges");
  const std::string list_name = model.Where("merges");
  const simdjson::dom::array list = List(*value, list_name);
  CheckCount(list.size(), kMaxMerges, list_name);
  spec.bpe.Reserve(list.size());
  std::size_t rank = 0;
  for (const element entry : list) {
    const std::string where = fmt::format("{}[{}]", list_name, rank);
    const auto [left, right] = MergePair(entry, where);
    AddMerge(left, right, where, spec);
    ++rank;
  }
}

AddedToken ReadAddedToken(const JsonFields& fields) {
  AddedToken token;
  token.id = static_cast<std::int32_t>(fields.Int("id", kIdRange));
  token.content = fields.String("content", "");
  token.special = fields.Bool("special", false);
  token.normalized = fields.Bool("normalized", false);
  token.lstrip = fields.Bool("lstrip", false);
  token.rstrip = fields.Bool("rstrip", false);
  if (token.content.empty() || token.content.size() > kMaxAddedBytes) {
    Throw<CheckpointError>("{}: expected 1 to {} bytes, found {}", fields.Where("content"),
                           kMaxAddedBytes, token.content.size());
  }
  if (fields.Bool("single_word", false)) {
    Throw<CheckpointError>("{}: true (for {}) is not supported", fields.Where("single_word"),
                           QuotedToken(token.content));
  }
  return token;
}

void ReadAddedTokens(const JsonFields& root, const std::string& file, TokenizerSpec& spec) {
  const auto value = root.Find("added_tokens");
  if (!value) return;
  const std::string list_name = root.Where("added_tokens");
  const simdjson::dom::array list = List(*value, list_name);
  CheckCount(list.size(), kMaxAddedTokens, list_name);
  for (const element entry : list) {
    const std::string name = fmt::format("added_tokens[{}]", spec.added.size());
    simdjson::dom::object object;
    if (entry.get(object) != simdjson::SUCCESS) {
      Throw<CheckpointError>("{}: {}: expected an object, found {}", file, name, Shown(entry));
    }
    spec.added.push_back(ReadAddedToken(JsonFields(object, file, name + ".")));
  }
}

}  // namespace

TokenizerSpec ParseTokenizer(std::string_view json, const std::string& file) {
  if (json.size() > kMaxTokenizerBytes) {
    Throw<CheckpointError>("{}: {} bytes; a tokenizer of more than {} MiB is not supported", file,
                           json.size(), kMaxTokenizerBytes >> 20);
  }
  const JsonDocument document(json, file);
  const JsonFields root(document.Object(), file);
  const auto model = root.Object("model");
  if (!model) root.Missing("model");
  TokenizerSpec spec;
  CheckModel(*model);
  ReadVocab(*model, spec);
  FindByteTokens(model->Where("vocab"), spec);
  spec.bpe = Bpe(spec.byte_ids);
  ReadMerges(*model, spec);
  spec.ignore_merges = model->Bool("ignore_merges", false);
  ReadAddedTokens(root, file, spec);
  CheckNormalizerAndDecoder(root);
  spec.pre_tokenizer = ReadPreTokenizer(root, file);
  // post_processor adds BOS and the like, which Encode never does; truncation and padding are for
  // batches of fixed length. None of the three is read.
  return spec;
}

}  // namespace tandem
