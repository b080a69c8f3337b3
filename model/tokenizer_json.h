#pragma once

#include <string>
#include <string_view>

#include "model/tokenizer_spec.h"

namespace tandem {

// tokenizer.json, read and checked. Throws CheckpointError naming `file` and the entry.
TokenizerSpec ParseTokenizer(std::string_view json, const std::string& file);

}  // namespace tandem
