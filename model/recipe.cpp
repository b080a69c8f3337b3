#include "model/recipe.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "memory/error.h"
#include "model/gguf_name.h"
#include "model/quantize.h"

namespace tandem {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

bool Matches(const FormatRule& rule, const TensorInfo& tensor, std::string_view name) {
  const bool layer =
      tensor.layer < 0 || (tensor.layer >= rule.first_layer && tensor.layer <= rule.last_layer);
  return layer && MatchesGlob(rule.pattern, name);
}

std::optional<DType> RuleFormat(const Recipe& recipe, const TensorInfo& tensor) {
  if (recipe.rules.empty()) return std::nullopt;
  std::string name = GgufName(tensor);
  name.resize(name.rfind('.'));  // without ".weight"
  for (auto rule = recipe.rules.rbegin(); rule != recipe.rules.rend(); ++rule) {
    if (Matches(*rule, tensor, name)) return rule->format;
  }
  return std::nullopt;
}

std::optional<DType> Wanted(const Recipe& recipe, const TensorInfo& tensor, std::int64_t layers) {
  if (const auto format = RuleFormat(recipe, tensor)) return format;
  if (const auto format = recipe.by_role[static_cast<std::size_t>(tensor.role)]) return format;
  if (recipe.mix.empty()) return std::nullopt;
  return MixFormat(recipe.mix, tensor, layers);
}

}  // namespace

bool Recipe::empty() const {
  const bool roles = std::ranges::any_of(by_role, [](const auto& f) { return f.has_value(); });
  return mix.empty() && rules.empty() && !roles;
}

bool IsQuantizable(const TensorInfo& tensor) {
  return tensor.shape.size() == 2 && tensor.role != Role::kRouter && tensor.role != Role::kMtp;
}

std::optional<FormatChoice> ChooseFormat(const Recipe& recipe, const TensorInfo& tensor,
                                         std::int64_t layers) {
  if (!IsQuantizable(tensor)) return std::nullopt;
  const std::optional<DType> wanted = Wanted(recipe, tensor, layers);
  if (!wanted) return std::nullopt;
  const bool block = IsBlockFormat(*wanted);
  return FormatChoice{*wanted, block ? FittingFormat(*wanted, tensor.cols()) : *wanted};
}

std::vector<std::string> FormatNames() {
  std::vector<std::string> names;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto format = static_cast<DType>(i);
    if (format != DType::kF8E4M3) names.push_back(Lower(Name(format)));
  }
  return names;
}

DType ParseFormat(std::string_view name, const std::string& where) {
  const std::optional<DType> format = ParseWeightFormat(name);
  if (format && *format != DType::kF8E4M3) return *format;
  Throw<ConfigError>("{}: '{}' is no format to convert to; expected one of {}", where, name,
                     fmt::join(FormatNames(), ", "));
}

// After a mismatch behind a '*', the '*' takes one character more: no recursion, and no more than
// pattern times text steps.
bool MatchesGlob(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::size_t star = std::string_view::npos;
  std::size_t after_star = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      after_star = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++after_star;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

}  // namespace tandem
