#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace tandem {

// A YAML document as a plain tree that knows where each value stands, for exact messages.
struct YamlValue {
  enum class Kind { kNull, kScalar, kList, kMap };
  struct Entry;

  Kind kind = Kind::kNull;
  int line = 1;  // counted from 1, like columns
  int column = 1;
  bool quoted = false;  // a quoted scalar is text and never a number
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

// Text from a file as it may stand in a message: short, quoted, without control characters.
std::string Quoted(const std::string& text);

}  // namespace tandem
