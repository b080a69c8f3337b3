#pragma once

#include <string>

#include "model/json.h"
#include "model/pre_tokenizer.h"

namespace tandem {

// The pre_tokenizer of tokenizer.json: Split, Digits and ByteLevel, alone or in a Sequence that
// ends with ByteLevel. Throws CheckpointError for every other.
PreTokenizer ReadPreTokenizer(const JsonFields& root, const std::string& file);

// No normalizer is supported, and no decoder but ByteLevel.
void CheckNormalizerAndDecoder(const JsonFields& root);

}  // namespace tandem
