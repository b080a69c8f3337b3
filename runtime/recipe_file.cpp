#include "runtime/recipe_file.h"

#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>

#include "memory/error.h"
#include "memory/file.h"
#include "placement/yaml_fields.h"
#include "placement/yaml_tree.h"
#include "runtime/format_options.h"

namespace tandem {
namespace {

constexpr std::size_t kMaxRules = 4096;
constexpr std::int64_t kMaxLayer = 100'000;

DType FormatAt(const YamlField& field) { return ParseFormat(field.Text(), Where(field.value)); }

std::optional<int> Layer(std::string_view text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && number >= 0 && number <= kMaxLayer ? std::optional(number) : std::nullopt;
}

// "5" or "0-3".
void SetLayers(const YamlField& field, FormatRule& rule) {
  const std::string text = field.Text();
  const std::size_t dash = text.find('-');
  const auto first = Layer(std::string_view(text).substr(0, dash));
  const auto last =
      dash == std::string::npos ? first : Layer(std::string_view(text).substr(dash + 1));
  if (!first || !last || *first > *last) field.Expected("a layer, or the first and last as 0-3");
  rule.first_layer = *first;
  rule.last_layer = *last;
}

FormatRule ReadRule(const YamlField& field) {
  const FieldMap map(field, {"tensors", "layers", "format"});
  FormatRule rule;
  rule.pattern = map.At("tensors").Text();
  rule.format = FormatAt(map.At("format"));
  if (map.Has("layers")) SetLayers(map.At("layers"), rule);
  return rule;
}

void ReadFormats(const YamlField& field, Recipe& recipe) {
  const FieldMap map(field, {"experts", "shared", "dense", "attention", "embeddings", "head"});
  for (const FormatRole& role : kFormatRoles) {
    if (!map.Has(role.name)) continue;
    recipe.by_role[static_cast<std::size_t>(role.role)] = FormatAt(map.At(role.name));
  }
}

}  // namespace

Recipe ParseRecipe(const std::string& text, const std::string& file) {
  const YamlValue root = ParseYaml(text, file);
  const FieldMap map({root, "", file}, {"mix", "formats", "rules"});
  Recipe recipe;
  if (map.Has("mix")) {
    recipe.mix = map.At("mix").Text();
    CheckMix(recipe.mix, Where(map.At("mix").value));
  }
  if (map.Has("formats")) ReadFormats(map.At("formats"), recipe);
  if (map.Has("rules")) {
    for (const YamlField& rule : map.At("rules").List(kMaxRules)) {
      recipe.rules.push_back(ReadRule(rule));
    }
  }
  if (recipe.empty()) Throw<ConfigError>("{}: says nothing: expected mix, formats or rules", file);
  return recipe;
}

Recipe ReadRecipe(const std::string& file) {
  return ParseRecipe(ReadWholeFile(std::filesystem::path(file), kMaxYamlBytes), file);
}

}  // namespace tandem
