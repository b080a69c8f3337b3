#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tandem {

// A YAML document as a plain tree that knows where each value stands, for exact messages.
struct YamlValue {
  enum class Kind { kNull, kScalar, kList, kMap };
  struct Entry;

  Kind kind = Kind::kNull;
  int line = 1;  // counted from 1, like columns; 0: a value that stands in no text
  int column = 1;
  std::shared_ptr<const std::string> source;  // the text's name, shared by all its values
  bool quoted = false;                        // a quoted scalar is text and never a number
  std::string scalar;
  std::vector<YamlValue> list;
  std::vector<Entry> map;  // in the file's order, keys unique
};
struct YamlValue::Entry {
  std::string key;
  int line = 1;
  int column = 1;
  YamlValue value;
};

inline constexpr std::size_t kMaxYamlBytes = std::size_t{1} << 20;
inline constexpr int kMaxYamlDepth = 32;

// Parses one document; an empty text is a null. Throws ConfigError "file:line:col: ..." for syntax
// errors, texts above kMaxYamlBytes or nested deeper than kMaxYamlDepth, keys that are no scalars
// or come twice, a second document, and for tags, anchors and aliases: a profile needs none of
// them, and a few hundred bytes of nested aliases can stand for gigabytes.
YamlValue ParseYaml(const std::string& text, const std::string& file);

// "p.yaml:3:5" as messages begin, or the source's name for a value that stands in no text.
std::string Where(const YamlValue& value);
// What a value is, for "found ...": 'word', a list, a map, nothing.
std::string Describe(const YamlValue& value);

// Values that stand in no text, to print or to set.
YamlValue YamlScalar(std::string text);  // quoted where it would not be read back as this text
YamlValue YamlList(std::vector<YamlValue> items);
YamlValue YamlMap(std::vector<std::pair<std::string, YamlValue>> entries);

// The value on one line, as YAML ("{type: f16}") that ParseYaml reads back.
std::string FlowText(const YamlValue& value);

// Text from a file as it may stand in a message: short, quoted, without control characters.
std::string Quoted(const std::string& text);

}  // namespace tandem
