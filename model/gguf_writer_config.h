#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/gguf_writer.h"
#include "model/quantized_model.h"

namespace tandem {

// Throws CheckpointError for a model that GGUF's architectures do not describe.
void CheckGgufConfig(const Config& config);

// Both forms of kv_b mean the same. The split one is the current one, but ik_llama.cpp reads it for
// DeepSeek's own sizes only; others are written joint, which llama.cpp and ik_llama.cpp both read.
KvbForm KvbFormFor(const Config& config);

// general.architecture and all keys under it.
void AddGgufConfig(const Config& config, KvbForm form, GgufKeyValues& metadata);

// What a config says that the metadata cannot: a reader does not get it back.
std::vector<std::string> LostInGguf(const Config& config);

}  // namespace tandem
