#include "placement/setting_value.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <charconv>
#include <optional>
#include <vector>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "placement/nearest.h"

namespace tandem::setting {
namespace {

using Kind = YamlValue::Kind;

constexpr std::uint64_t kMostBytes = std::uint64_t{64} << 40;

template <class T>
std::optional<T> ParseNumber(const YamlValue& value) {
  if (value.kind != Kind::kScalar || value.quoted) return std::nullopt;
  const std::string& text = value.scalar;
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole ? std::optional(number) : std::nullopt;
}

// A wrong flag is wrong usage (exit 2), a wrong file or variable a bad setting (exit 78).
[[noreturn]] void ThrowFor(const YamlValue& value, const std::string& message) {
  if (value.source && value.source->starts_with("--")) throw UsageError(message);
  throw ConfigError(message);
}

}  // namespace

void Fail(const Field& field, const std::string& what) {
  ThrowFor(field.value, fmt::format("{}: {}: {}", Where(field.value), Quoted(field.path), what));
}

void Expected(const Field& field, const std::string& what) {
  Fail(field, fmt::format("expected {}, found {}", what, Describe(field.value)));
}

bool IsWord(const YamlValue& value, std::string_view word) {
  return value.kind == Kind::kScalar && value.scalar == word;
}

std::int64_t Integer(const Field& field, std::int64_t least, std::int64_t most,
                     std::string_view also) {
  const std::optional<std::int64_t> number = ParseNumber<std::int64_t>(field.value);
  if (number && *number >= least && *number <= most) return *number;
  Expected(field, fmt::format("a whole number from {} to {}{}", least, most, also));
}

double Share(const Field& field) {
  const std::optional<double> number = ParseNumber<double>(field.value);
  if (number && *number >= 0 && *number <= 1) return *number;
  Expected(field, "a number from 0 to 1");
}

std::uint64_t Bytes(const Field& field, std::uint64_t least, std::string_view also) {
  const std::optional<std::uint64_t> bytes =
      field.value.kind == Kind::kScalar ? ParseBytes(field.value.scalar) : std::nullopt;
  if (!bytes) {
    Expected(field, fmt::format("a size such as 6 GiB, 512 MiB or a number of bytes{}", also));
  }
  if (*bytes >= least && *bytes <= kMostBytes) return *bytes;
  Expected(field, fmt::format("{} to {}", FormatBytes(least), FormatBytes(kMostBytes)));
}

std::size_t WordIndex(const Field& field, Words words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (IsWord(field.value, words[i])) return i;
  }
  const std::string nearest = NearestKey(field.value.scalar, words);
  Expected(field, fmt::format("{}{}", fmt::join(words, ", "),
                              nearest.empty() ? "" : fmt::format(" (perhaps '{}')", nearest)));
}

const std::string& Text(const Field& field, const std::string& what) {
  if (field.value.kind == Kind::kScalar && !field.value.scalar.empty()) return field.value.scalar;
  Expected(field, what);
}

std::pair<std::int64_t, std::int64_t> Range(const Field& field, std::int64_t most) {
  if (field.value.kind != Kind::kList || field.value.list.size() != 2) {
    Expected(field, "[first, last]");
  }
  const std::int64_t first = Integer({field.value.list[0], field.path}, 0, most);
  const std::int64_t last = Integer({field.value.list[1], field.path}, 0, most);
  if (first > last)
    Fail(field, fmt::format("the first, {}, comes after the last, {}", first, last));
  return {first, last};
}

void UnknownKey(const YamlValue::Entry& entry, Words known) {
  YamlValue key;
  key.line = entry.line;
  key.column = entry.column;
  key.source = entry.value.source;
  const std::string nearest = NearestKey(entry.key, known);
  const std::string hint = nearest.empty() ? fmt::format("known: {}", fmt::join(known, ", "))
                                           : fmt::format("did you mean '{}'?", nearest);
  ThrowFor(key, fmt::format("{}: {}: unknown key ({})", Where(key), Quoted(entry.key), hint));
}

void CheckKeys(const Field& field, Words known) {
  if (field.value.kind != Kind::kMap) Expected(field, "a map");
  for (const YamlValue::Entry& entry : field.value.map) {
    bool found = false;
    for (const std::string_view key : known) found = found || entry.key == key;
    if (!found) UnknownKey(entry, known);
  }
}

Field Entry(const Field& field, const YamlValue::Entry& entry) {
  return {entry.value, fmt::format("{}.{}", field.path, entry.key)};
}

Field Item(const Field& field, std::size_t index) {
  return {field.value.list[index], fmt::format("{}[{}]", field.path, index)};
}

YamlValue PrintBytes(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 4> kUnits{"TiB", "GiB", "MiB", "KiB"};
  for (std::size_t i = 0; i < kUnits.size(); ++i) {
    const std::uint64_t unit = std::uint64_t{1} << (40 - 10 * i);
    if (bytes != 0 && bytes % unit == 0) {
      return YamlScalar(fmt::format("{} {}", bytes / unit, kUnits[i]));
    }
  }
  return YamlScalar(std::to_string(bytes));
}

YamlValue PrintNumber(std::int64_t number) { return YamlScalar(std::to_string(number)); }

YamlValue PrintRange(std::int64_t first, std::int64_t last) {
  return YamlList({PrintNumber(first), PrintNumber(last)});
}

std::string IntegerSchema(std::int64_t least, std::int64_t most) {
  return fmt::format(R"({{"type":"integer","minimum":{},"maximum":{}}})", least, most);
}

std::string BytesSchema(std::uint64_t least) {
  const std::string text =
      R"({"type":"string","pattern":"^[0-9]+(\\.[0-9]+)? ?(B|KiB|MiB|GiB|TiB)?$"})";
  return AnyOf({IntegerSchema(static_cast<std::int64_t>(least), kMostBytes), text});
}

std::string WordsSchema(Words words) {
  return fmt::format(R"({{"enum":["{}"]}})", fmt::join(words, R"(",")"));
}

std::string RangeSchema(std::int64_t most) {
  return fmt::format(R"({{"type":"array","items":{},"minItems":2,"maxItems":2}})",
                     IntegerSchema(0, most));
}

std::string AnyOf(std::initializer_list<std::string> schemas) {
  return fmt::format(R"({{"anyOf":[{}]}})", fmt::join(schemas, ","));
}

std::string OrWord(const std::string& schema, std::string_view word) {
  return AnyOf({fmt::format(R"({{"const":"{}"}})", word), schema});
}

}  // namespace tandem::setting
