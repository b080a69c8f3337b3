#pragma once

#include "model/config.h"
#include "model/gguf.h"

namespace tandem {

// The config that a GGUF file's metadata describes, checked against the ranges that are possible;
// general.architecture `deepseek` or `deepseek2`. What older files leave out is completed by the
// model's own rule: the routing function by whether there are correction biases, the expert groups
// by the published models that have them. Throws CheckpointError naming file and key.
Config ReadGgufConfig(const Gguf& gguf);

}  // namespace tandem
