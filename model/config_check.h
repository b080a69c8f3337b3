#pragma once

#include <string>

#include "model/config.h"

namespace tandem {

// The relations between fields that must hold beyond the range of each (which the parser checks):
// what divides what, what fits into what. Throws CheckpointError naming `file` and the fields.
void CheckConfig(const Config& config, const std::string& file);

}  // namespace tandem
