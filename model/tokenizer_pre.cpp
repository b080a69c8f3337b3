#include "model/tokenizer_pre.h"

#include <utility>
#include <vector>

#include "memory/error.h"
#include "model/pre_tokenizer_pattern.h"
#include "model/pre_tokenizer_unicode.h"

namespace tandem {
namespace {

// GPT-2's own split, which ByteLevel brings along unless use_regex is false.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What follows is O(stages * text); published models have at most 7.
constexpr std::size_t kMaxStages = 64;

std::string TypeOf(const JsonFields& fields) {
  if (!fields.Find("type")) fields.Missing("type");
  return fields.String("type", "");
}

// The entries of a Sequence, or the one entry that there is without one; flat, in order.
void Flatten(JsonFields fields, const std::string& file, const std::string& name,
             std::string_view list_key, std::vector<JsonFields>& flat) {
  if (flat.size() > kMaxStages) {
    Throw<CheckpointError>("{}: {}: more than {} entries", file, name, kMaxStages);
  }
  if (TypeOf(fields) != "Sequence") return flat.push_back(std::move(fields));
  const auto value = fields.Find(list_key);
  simdjson::dom::array list;
  if (!value || value->get(list) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected a list", fields.Where(list_key));
  }
  std::size_t index = 0;
  for (const simdjson::dom::element entry : list) {
    const std::string entry_name = fmt::format("{}.{}[{}]", name, list_key, index++);
    simdjson::dom::object object;
    if (entry.get(object) != simdjson::SUCCESS) {
      Throw<CheckpointError>("{}: {}: expected an object, found {}", file, entry_name,
                             Shown(entry));
    }
    Flatten(JsonFields(object, file, entry_name + "."), file, entry_name, list_key, flat);
  }
}

SplitBehavior BehaviorOf(const JsonFields& fields) {
  const std::string name = fields.String("behavior", "");
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  Throw<CheckpointError>(
      "{}: expected Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous, found "
      "'{}'",
      fields.Where("behavior"), name);
}

// {"Regex": "..."} or {"String": "..."}.
std::string PatternOf(const JsonFields& fields) {
  const auto pattern = fields.Object("pattern");
  if (!pattern) fields.Missing("pattern");
  if (pattern->Find("Regex")) {
    return PatternForPcre(pattern->String("Regex", ""), pattern->Where("Regex"));
  }
  if (!pattern->Find("String")) pattern->Missing("Regex");
  return LiteralPattern(pattern->String("String", ""));
}

SplitStage ReadSplit(const JsonFields& fields) {
  return {Regex(PatternOf(fields), fields.Where("pattern")), BehaviorOf(fields),
          fields.Bool("invert", false)};
}

SplitStage ReadDigits(const JsonFields& fields) {
  Regex numeric(fmt::format("[{}]", NumericClass()), fields.Where("type"));
  const bool each = fields.Bool("individual_digits", false);
  return {std::move(numeric), each ? SplitBehavior::kIsolated : SplitBehavior::kContiguous};
}

void AddByteLevel(const JsonFields& fields, PreTokenizer& pre_tokenizer) {
  // Absent means true to the Hugging Face library, in both.
  const bool prefix_space = fields.Bool("add_prefix_space", true);
  if (!fields.Bool("use_regex", true)) {
    if (prefix_space) pre_tokenizer.AddPrefixSpace();
    return;
  }
  const std::string where = fields.Where("use_regex");
  pre_tokenizer.Add({Regex(PatternForPcre(kByteLevelPattern, where), where),
                     SplitBehavior::kIsolated, false, prefix_space});
}

}  // namespace

PreTokenizer ReadPreTokenizer(const JsonFields& root, const std::string& file) {
  const auto fields = root.Object("pre_tokenizer");
  if (!fields) root.Missing("pre_tokenizer");
  std::vector<JsonFields> entries;
  Flatten(*fields, file, "pre_tokenizer", "pretokenizers", entries);
  PreTokenizer pre_tokenizer;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::string type = TypeOf(entries[i]);
    const bool last = i + 1 == entries.size();
    if (last != (type == "ByteLevel")) {
      Throw<CheckpointError>(
          "{}: '{}' {}; only sequences with one ByteLevel, at their end, are "
          "supported",
          entries[i].Where("type"), type, last ? "is the last" : "is not the last");
    }
    if (type == "Split")
      pre_tokenizer.Add(ReadSplit(entries[i]));
    else if (type == "Digits")
      pre_tokenizer.Add(ReadDigits(entries[i]));
    else if (type == "ByteLevel")
      AddByteLevel(entries[i], pre_tokenizer);
    else
      Throw<CheckpointError>("{}: '{}' is not supported, only Split, Digits and ByteLevel",
                             entries[i].Where("type"), type);
  }
  if (entries.empty()) Throw<CheckpointError>("{}: pre_tokenizer: empty", file);
  return pre_tokenizer;
}

void CheckNormalizerAndDecoder(const JsonFields& root) {
  std::vector<JsonFields> entries;
  if (const auto normalizer = root.Object("normalizer")) {
    Flatten(*normalizer, "", root.Where("normalizer"), "normalizers", entries);
  }
  if (!entries.empty()) {
    Throw<CheckpointError>("{}: '{}' is not supported, only a tokenizer without normalizer",
                           root.Where("normalizer"), TypeOf(entries.front()));
  }
  if (const auto decoder = root.Object("decoder")) {
    Flatten(*decoder, "", root.Where("decoder"), "decoders", entries);
  }
  for (const JsonFields& entry : entries) {
    if (TypeOf(entry) == "ByteLevel") continue;
    Throw<CheckpointError>("{}: '{}' is not supported, only ByteLevel", root.Where("decoder"),
                           TypeOf(entry));
  }
}

}  // namespace tandem
