#pragma once

#include <string>

#include "model/config.h"
#include "model/tensor_source.h"

namespace tandem {

// Opens what --model names: a folder in the Hugging Face layout, or a GGUF file (any part of a
// split one). Reads headers only; throws as OpenCheckpoint does.
Model OpenModel(const std::string& path);

// The config alone, of such a path.
Config ReadModelConfig(const std::string& path);

}  // namespace tandem
