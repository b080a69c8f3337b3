#include "model/json.h"

#include <algorithm>
#include <cmath>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr double kExactIntegers = 9007199254740992.0;  // 2^53

bool ByName(const JsonFields::Field& a, const JsonFields::Field& b) { return a.first < b.first; }

}  // namespace

JsonDocument::JsonDocument(std::string_view text, std::string file)
    : file_(std::move(file)), parser_(std::make_unique<simdjson::dom::parser>()) {
  simdjson::error_code error = parser_->allocate(std::max<std::size_t>(text.size(), 64), kMaxDepth);
  if (error == simdjson::SUCCESS) error = parser_->parse(text.data(), text.size()).get(root_);
  if (error == simdjson::DEPTH_ERROR) {
    Throw<CheckpointError>("{}: JSON is nested deeper than {} levels", file_, kMaxDepth);
  }
  if (error != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: not valid JSON: {}", file_, simdjson::error_message(error));
  }
}

simdjson::dom::object JsonDocument::Object() const {
  simdjson::dom::object object;
  if (root_.get(object) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected a JSON object, found {}", file_, Shown(root_));
  }
  return object;
}

JsonFields::JsonFields(simdjson::dom::object object, std::string file, std::string prefix)
    : file_(std::move(file)), prefix_(std::move(prefix)) {
  for (const auto& [key, value] : object) fields_.emplace_back(key, value);
  std::sort(fields_.begin(), fields_.end(), ByName);
  for (std::size_t i = 1; i < fields_.size(); ++i) {
    if (fields_[i].first == fields_[i - 1].first) {
      Throw<CheckpointError>("{}: given twice", Where(fields_[i].first));
    }
  }
}

std::optional<simdjson::dom::element> JsonFields::Find(std::string_view key) const {
  const Field wanted(key, {});
  const auto at = std::lower_bound(fields_.begin(), fields_.end(), wanted, ByName);
  if (at == fields_.end() || at->first != key || at->second.is_null()) return std::nullopt;
  return at->second;
}

std::optional<JsonFields> JsonFields::Object(std::string_view key) const {
  const auto value = Find(key);
  if (!value) return std::nullopt;
  simdjson::dom::object object;
  if (value->get(object) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected an object, found {}", Where(key), Shown(*value));
  }
  return JsonFields(object, file_, fmt::format("{}{}.", prefix_, key));
}

std::int64_t JsonFields::Int(std::string_view key, IntRange range,
                             std::optional<std::int64_t> absent) const {
  const auto value = Find(key);
  if (!value && absent) return *absent;
  if (!value) Missing(key);
  const std::optional<std::int64_t> number = WholeNumber(*value);
  if (!number || *number < range.low || *number > range.high) {
    Throw<CheckpointError>("{}: expected a whole number from {} to {}, found {}", Where(key),
                           range.low, range.high, Shown(*value));
  }
  return *number;
}

double JsonFields::Real(std::string_view key, RealRange range, std::optional<double> absent) const {
  const auto value = Find(key);
  if (!value && absent) return *absent;
  if (!value) Missing(key);
  double number = 0;
  const bool is_number = value->get(number) == simdjson::SUCCESS;
  if (!is_number || !(number >= range.low && number <= range.high)) {
    Throw<CheckpointError>("{}: expected a number from {} to {}, found {}", Where(key), range.low,
                           range.high, Shown(*value));
  }
  return number;
}

bool JsonFields::Bool(std::string_view key, bool absent) const {
  const auto value = Find(key);
  if (!value) return absent;
  bool flag = false;
  if (value->get(flag) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected true or false, found {}", Where(key), Shown(*value));
  }
  return flag;
}

std::string JsonFields::String(std::string_view key, std::string_view absent) const {
  const auto value = Find(key);
  if (!value) return std::string(absent);
  std::string_view text;
  if (value->get(text) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: expected a string, found {}", Where(key), Shown(*value));
  }
  return std::string(text);
}

std::string JsonFields::Where(std::string_view key) const {
  return fmt::format("{}: {}{}", file_, prefix_, key);
}

void JsonFields::Missing(std::string_view key) const {
  Throw<CheckpointError>("{}: missing, but this kind of model needs it", Where(key));
}

std::optional<std::int64_t> WholeNumber(simdjson::dom::element value) {
  std::int64_t whole = 0;
  if (value.get(whole) == simdjson::SUCCESS) return whole;
  double real = 0;
  if (value.get(real) != simdjson::SUCCESS) return std::nullopt;
  if (std::trunc(real) != real || std::abs(real) > kExactIntegers) return std::nullopt;
  return static_cast<std::int64_t>(real);
}

std::string Shown(simdjson::dom::element value) {
  constexpr std::size_t kMost = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = simdjson::minify(value);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

}  // namespace tandem
