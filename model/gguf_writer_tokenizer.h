#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/gguf_writer.h"

namespace tandem {

// A tokenizer as GGUF holds it: byte-level BPE, with its pre-tokenizer known by name.
struct GgufVocabulary {
  std::string pre;                  // "deepseek-llm", "deepseek-coder" or "deepseek-v3"
  std::vector<std::string> tokens;  // by id, as many as the embedding has rows
  std::vector<std::int32_t> types;  // llama.cpp's: 1 normal, 3 control, 4 user-defined, 5 unused
  std::vector<std::string> merges;  // "left right"
  std::optional<std::int32_t> bos, eos, pad;
  bool add_bos = true;
  std::string chat_template;  // empty: none
};

// From tokenizer.json, tokenizer_config.json and chat_template.jinja of a model folder; add_bos is
// the caller's to set. Throws CheckpointError, also for a pre-tokenizer without a name in GGUF.
GgufVocabulary ReadVocabulary(const std::string& model_dir, const Config& config);

// For random weights: a token for each byte, BOS, EOS, and words of the letters a to z, each merged
// from a shorter one and a letter. Throws ConfigError if the vocabulary is too small for that.
GgufVocabulary SyntheticVocabulary(const Config& config);

void AddVocabulary(const GgufVocabulary& vocabulary, GgufKeyValues& metadata);
// That of another GGUF file, as it is.
void CopyVocabulary(const GgufMetadata& from, GgufKeyValues& metadata);

}  // namespace tandem
