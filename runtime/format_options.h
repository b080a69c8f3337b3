#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <string>
#include <string_view>

#include "model/recipe.h"

namespace tandem {

// The roles that a recipe can give a format, by the names that users write.
struct FormatRole {
  const char* name;
  Role role;
};
inline constexpr std::array<FormatRole, 6> kFormatRoles{{{"experts", Role::kRouted},
                                                         {"shared", Role::kShared},
                                                         {"dense", Role::kDense},
                                                         {"attention", Role::kAttention},
                                                         {"embeddings", Role::kEmbedding},
                                                         {"head", Role::kHead}}};

// What the flags say: --quantize MIX, --recipe FILE, and --experts FORMAT and so on above them.
struct FormatOptions {
  std::string mix;
  std::string recipe_file;
  std::array<std::string, kFormatRoles.size()> formats;  // empty: not given
};

void AddFormatOptions(CLI::App& app, FormatOptions& options, const std::string& group);

// Throws UsageError for a mix beside a recipe file, ConfigError for names that are unknown.
Recipe RecipeOf(const FormatOptions& options);

}  // namespace tandem
