#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "placement/yaml_tree.h"

// Reads typed values out of YAML, with messages that say where, which setting, what was expected
// and what was found: "p.yaml:3:5: 'workload.context': expected ..., found 'x'".
namespace tandem::setting {

// A value and the path of its setting ("memory.device").
struct Field {
  const YamlValue& value;
  std::string path;
};

using Words = std::span<const std::string_view>;

// Throws ConfigError, or UsageError for a value that a flag gave.
[[noreturn]] void Fail(const Field& field, const std::string& what);
[[noreturn]] void Expected(const Field& field, const std::string& what);

// Whether the value is this plain word.
bool IsWord(const YamlValue& value, std::string_view word);

// Each throws unless the value is one of that kind and range. `also` ends the list of what is
// allowed: " or auto".
std::int64_t Integer(const Field& field, std::int64_t least, std::int64_t most,
                     std::string_view also = "");
double Share(const Field& field);
std::uint64_t Bytes(const Field& field, std::uint64_t least, std::string_view also = "");
// The index of the word.
std::size_t WordIndex(const Field& field, Words words);
const std::string& Text(const Field& field, const std::string& what);
// [first, last], both from 0 to `most`, in this order.
std::pair<std::int64_t, std::int64_t> Range(const Field& field, std::int64_t most);

// Throws "unknown key" with the nearest known one, or all of them.
[[noreturn]] void UnknownKey(const YamlValue::Entry& entry, Words known);
// Throws unless the value is a map with none but these keys.
void CheckKeys(const Field& field, Words known);
// "threads.0", "rules[2]"
Field Entry(const Field& field, const YamlValue::Entry& entry);
Field Item(const Field& field, std::size_t index);

// "22 GiB", or the number where no unit divides it: what Bytes reads back exactly.
YamlValue PrintBytes(std::uint64_t bytes);
YamlValue PrintNumber(std::int64_t number);
YamlValue PrintRange(std::int64_t first, std::int64_t last);

// Pieces of JSON Schema (2020-12).
std::string IntegerSchema(std::int64_t least, std::int64_t most);
std::string BytesSchema(std::uint64_t least);
std::string WordsSchema(Words words);
std::string RangeSchema(std::int64_t most);
std::string AnyOf(std::initializer_list<std::string> schemas);
std::string OrWord(const std::string& schema, std::string_view word);

}  // namespace tandem::setting
