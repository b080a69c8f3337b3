#pragma once

#include <string>
#include <string_view>

#include "model/gguf.h"
#include "model/pre_tokenizer.h"
#include "model/tokenizer_spec.h"

namespace tandem {

// The tokenizer in a GGUF file's metadata (tokenizer.ggml.*): byte-level BPE (`gpt2`) with a
// pre-tokenizer by name. Control tokens become special added tokens, user-defined ones ordinary
// added tokens, and ids that are not used stay without a token. Throws CheckpointError naming the
// key and the entry.
TokenizerSpec ReadGgufTokenizer(const GgufMetadata& metadata);

// Whether there is one, and of a kind that is known.
bool HasKnownTokenizer(const GgufMetadata& metadata);

// The pre-tokenizers that llama.cpp knows by these names, with the patterns of the tokenizer.json
// files that they stand for: deepseek-llm, deepseek-coder, deepseek-v3, joyai-llm.
bool IsKnownPreTokenizer(std::string_view name);
PreTokenizer NamedPreTokenizer(std::string_view name, const std::string& where);

}  // namespace tandem
