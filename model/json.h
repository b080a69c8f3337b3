#pragma once

#include <simdjson.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/range.h"

namespace tandem {

// JSON from outside, parsed and checked as a whole: UTF-8, syntax, depth. For sources in model/
// only, so that no other folder needs simdjson.
class JsonDocument {
 public:
  // Throws CheckpointError naming `file`.
  JsonDocument(std::string_view text, std::string file);

  const std::string& file() const { return file_; }
  // The document, which must be an object.
  simdjson::dom::object Object() const;

 private:
  std::string file_;
  std::unique_ptr<simdjson::dom::parser> parser_;
  simdjson::dom::element root_;
};

// The fields of one JSON object by name. Doubled names are refused: parsers differ in which one
// counts. A field that is null is as one that is absent. Messages name file and field.
class JsonFields {
 public:
  JsonFields(simdjson::dom::object object, std::string file, std::string prefix = "");

  std::optional<simdjson::dom::element> Find(std::string_view key) const;
  std::optional<JsonFields> Object(std::string_view key) const;

  // Without `absent` the field must be there.
  std::int64_t Int(std::string_view key, IntRange range,
                   std::optional<std::int64_t> absent = std::nullopt) const;
  double Real(std::string_view key, RealRange range,
              std::optional<double> absent = std::nullopt) const;
  bool Bool(std::string_view key, bool absent) const;
  std::string String(std::string_view key, std::string_view absent) const;

  // "config.json: rope_scaling.factor"
  std::string Where(std::string_view key) const;
  [[noreturn]] void Missing(std::string_view key) const;
  using Field = std::pair<std::string_view, simdjson::dom::element>;
  const std::vector<Field>& all() const& { return fields_; }
  const std::vector<Field>& all() && = delete;  // would dangle in a range-for

 private:
  std::string file_;
  std::string prefix_;
  std::vector<Field> fields_;  // sorted by name
};

// The value as a whole number; also 4096.0. nullopt for everything else.
std::optional<std::int64_t> WholeNumber(simdjson::dom::element value);
// The value as JSON, shortened, for messages.
std::string Shown(simdjson::dom::element value);

}  // namespace tandem
