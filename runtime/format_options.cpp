#include "runtime/format_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "memory/error.h"
#include "runtime/recipe_file.h"

namespace tandem {

void AddFormatOptions(CLI::App& app, FormatOptions& options, const std::string& group) {
  app.add_option("--quantize", options.mix,
                 fmt::format("a mix of formats for all matrices: {}", fmt::join(MixNames(), ", ")))
      ->type_name("MIX")
      ->group(group);
  app.add_option("--recipe", options.recipe_file, "YAML file that says which tensor gets which")
      ->type_name("FILE")
      ->group(group);
  for (std::size_t i = 0; i < kFormatRoles.size(); ++i) {
    const std::string name = kFormatRoles[i].name;
    app.add_option("--" + name, options.formats[i],
                   fmt::format("format of the {} (q8_0, q4_k, bf16, ...)",
                               name == "shared"      ? "shared experts"
                               : name == "dense"     ? "dense layers' MLPs"
                               : name == "attention" ? "attention's matrices"
                               : name == "experts"   ? "routed experts"
                                                     : name))
        ->type_name("FORMAT")
        ->group(group);
  }
}

Recipe RecipeOf(const FormatOptions& options) {
  if (!options.mix.empty() && !options.recipe_file.empty()) {
    throw UsageError("--quantize and --recipe: expected one of them (a recipe may name a mix)");
  }
  Recipe recipe;
  if (!options.recipe_file.empty()) recipe = ReadRecipe(options.recipe_file);
  if (!options.mix.empty()) {
    CheckMix(options.mix, "--quantize");
    recipe.mix = options.mix;
  }
  for (std::size_t i = 0; i < kFormatRoles.size(); ++i) {
    if (options.formats[i].empty()) continue;
    const std::string flag = fmt::format("--{}", kFormatRoles[i].name);
    const DType format = ParseFormat(options.formats[i], flag);
    recipe.by_role[static_cast<std::size_t>(kFormatRoles[i].role)] = format;
  }
  return recipe;
}

}  // namespace tandem
