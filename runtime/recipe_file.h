#pragma once

#include <string>

#include "model/recipe.h"

namespace tandem {

// A recipe in YAML (docs/convert.md):
//   mix: q4_k_m
//   formats: {experts: q4_k, shared: q8_0, attention: q8_0}
//   rules:
//     - {tensors: "blk.*.ffn_down_exps", layers: 0-3, format: q6_k}
// Throws ConfigError "file:line:col: ..." for everything that it does not know, SystemError (66)
// for a file that is not there.
Recipe ReadRecipe(const std::string& file);
Recipe ParseRecipe(const std::string& text, const std::string& file);

}  // namespace tandem
