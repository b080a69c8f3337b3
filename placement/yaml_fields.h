#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "placement/yaml_tree.h"

namespace tandem {

// A value of a machine file with the path of its key ("nodes[1].memory"). Every function throws
// ConfigError "file:line:col: 'path': expected ..., found ..." for a value that it does not take.
struct YamlField {
  const YamlValue& value;
  std::string path;
  const std::string& file;

  [[noreturn]] void Fail(const std::string& what) const;
  [[noreturn]] void Expected(const std::string& what) const;

  std::string Text() const;  // a scalar of at most 4096 bytes
  bool Bool() const;
  std::int64_t Int(std::int64_t least, std::int64_t most) const;
  std::uint64_t Uint64() const;
  std::uint64_t Bytes() const;  // "6 GiB", or a whole number of bytes
  double Positive() const;      // finite, above 0, at most 1e30
  double NotNegative() const;   // the same with 0
  double Number(double least, double most) const;

  bool IsList() const { return value.kind == YamlValue::Kind::kList; }
  bool IsNull() const { return value.kind == YamlValue::Kind::kNull; }
  std::vector<YamlField> List(std::size_t most) const;
};

// A map with the keys that it may have: any other is an error that names the nearest of them.
class FieldMap {
 public:
  FieldMap(const YamlField& field, std::initializer_list<std::string_view> keys);
  FieldMap(const YamlField& field, const std::vector<std::string_view>& known);
  explicit FieldMap(const YamlField& field);  // any key: they were checked before

  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  YamlField At(std::string_view key) const;  // throws if it is absent
  const YamlField& field() const { return field_; }

  // Reads the value into `to` if the key is there: Set(x, "count", [](const YamlField& f) {...}).
  template <class T, class F>
  void Set(T& to, std::string_view key, F&& read) const {
    if (Has(key)) to = static_cast<T>(read(At(key)));
  }

 private:
  const YamlValue* Find(std::string_view key) const;

  YamlField field_;
};

}  // namespace tandem
