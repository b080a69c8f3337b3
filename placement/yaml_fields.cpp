#include "placement/yaml_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "placement/nearest.h"

namespace tandem {
namespace {

using Kind = YamlValue::Kind;

std::string Found(const YamlValue& value) {
  switch (value.kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kScalar:
      return Quoted(value.scalar);
    case Kind::kList:
      return fmt::format("a list of {}", value.list.size());
    case Kind::kMap:
      return "a map";
  }
  return "";
}

template <class T>
std::optional<T> ParseNumber(const YamlValue& value) {
  if (value.kind != Kind::kScalar || value.quoted) return std::nullopt;
  T number{};
  const char* end = value.scalar.data() + value.scalar.size();
  const auto parsed = std::from_chars(value.scalar.data(), end, number);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(number) : std::nullopt;
}

constexpr double kMost = 1e30;

}  // namespace

void YamlField::Fail(const std::string& what) const {
  const std::string name = path.empty() ? "" : fmt::format("'{}': ", path);
  Throw<ConfigError>("{}:{}:{}: {}{}", file, value.line, value.column, name, what);
}

void YamlField::Expected(const std::string& what) const {
  Fail(fmt::format("expected {}, found {}", what, Found(value)));
}

std::string YamlField::Text() const {
  constexpr std::size_t kLongest = 4096;
  if (IsNull()) return "";
  if (value.kind != Kind::kScalar || value.scalar.size() > kLongest) Expected("a short text");
  return value.scalar;
}

bool YamlField::Bool() const {
  if (value.kind == Kind::kScalar && !value.quoted) {
    if (value.scalar == "true") return true;
    if (value.scalar == "false") return false;
  }
  Expected("true or false");
}

std::int64_t YamlField::Int(std::int64_t least, std::int64_t most) const {
  const auto number = ParseNumber<std::int64_t>(value);
  if (!number || *number < least || *number > most) {
    Expected(fmt::format("a whole number from {} to {}", least, most));
  }
  return *number;
}

std::uint64_t YamlField::Uint64() const {
  const auto number = ParseNumber<std::uint64_t>(value);
  if (!number) Expected("a whole number");
  return *number;
}

std::uint64_t YamlField::Bytes() const {
  const auto bytes = value.kind == Kind::kScalar ? ParseBytes(value.scalar) : std::nullopt;
  if (!bytes) Expected("a number of bytes, such as 24 GiB");
  return *bytes;
}

double YamlField::Positive() const {
  const auto number = ParseNumber<double>(value);
  if (!number || !(*number > 0 && *number <= kMost)) Expected("a number above 0");
  return *number;
}

double YamlField::NotNegative() const {
  const auto number = ParseNumber<double>(value);
  if (!number || !(*number >= 0 && *number <= kMost)) Expected("a number that is not negative");
  return *number;
}

double YamlField::Number(double least, double most) const {
  const auto number = ParseNumber<double>(value);
  if (!number || !(*number >= least && *number <= most)) {
    Expected(fmt::format("a number from {:g} to {:g}", least, most));
  }
  return *number;
}

std::vector<YamlField> YamlField::List(std::size_t most) const {
  if (!IsList()) Expected("a list");
  if (value.list.size() > most) {
    Fail(fmt::format("expected at most {} elements, found {}", most, value.list.size()));
  }
  std::vector<YamlField> elements;
  for (std::size_t i = 0; i < value.list.size(); ++i) {
    elements.push_back({value.list[i], fmt::format("{}[{}]", path, i), file});
  }
  return elements;
}

FieldMap::FieldMap(const YamlField& field) : field_(field) {
  if (field.value.kind != Kind::kMap) field.Expected("a map");
}

FieldMap::FieldMap(const YamlField& field, std::initializer_list<std::string_view> keys)
    : FieldMap(field, std::vector<std::string_view>(keys)) {}

FieldMap::FieldMap(const YamlField& field, const std::vector<std::string_view>& known)
    : FieldMap(field) {
  for (const YamlValue::Entry& entry : field.value.map) {
    if (std::ranges::find(known, entry.key) != known.end()) continue;
    const std::string nearest = NearestKey(entry.key, known);
    Throw<ConfigError>("{}:{}:{}: {}: unknown key{}", field.file, entry.line, entry.column,
                       Quoted(entry.key),
                       nearest.empty() ? fmt::format("; known are {}", fmt::join(known, ", "))
                                       : fmt::format(" (did you mean '{}'?)", nearest));
  }
}

const YamlValue* FieldMap::Find(std::string_view key) const {
  for (const YamlValue::Entry& entry : field_.value.map) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

YamlField FieldMap::At(std::string_view key) const {
  const YamlValue* value = Find(key);
  if (!value) field_.Fail(fmt::format("'{}' is missing", key));
  const std::string prefix = field_.path.empty() ? "" : field_.path + ".";
  return {*value, prefix + std::string(key), field_.file};
}

}  // namespace tandem
