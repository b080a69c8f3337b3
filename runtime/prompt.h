#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/tokenizer.h"

namespace tandem {

// The ids of a plain prompt: the text with its control tokens parsed, and BOS before it if
// `add_bos` and the text does not begin with it.
std::vector<std::int32_t> EncodePrompt(std::string_view text, const Config& config,
                                       const Tokenizer& tokenizer, bool add_bos);

// add_bos_token of a folder's tokenizer_config.json or of a GGUF file's metadata; true where the file
// or the field is absent, as these families were trained so. Throws CheckpointError if the file is
// damaged.
bool ReadAddBos(const std::string& model_path);

// A whole file, or standard input for "-". Throws SystemError: 66 if it is absent, 74 if it cannot
// be read or is larger than 64 MiB.
std::string ReadText(const std::string& file);

}  // namespace tandem
