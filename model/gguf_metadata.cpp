#include "model/gguf_metadata.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "memory/error.h"
#include "model/tokenizer_bytes.h"

namespace tandem {
namespace {

struct TypeRow {
  std::string_view name;
  std::size_t bytes;
};
constexpr std::array<TypeRow, kNumGgufValueTypes> kTypes{{{"u8", 1},
                                                          {"i8", 1},
                                                          {"u16", 2},
                                                          {"i16", 2},
                                                          {"u32", 4},
                                                          {"i32", 4},
                                                          {"f32", 4},
                                                          {"bool", 1},
                                                          {"string", 0},
                                                          {"array", 0},
                                                          {"u64", 8},
                                                          {"i64", 8},
                                                          {"f64", 8}}};

template <class T>
T Load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

// nullopt if it is no integer, or one above 2^63.
std::optional<std::int64_t> Integer(GgufValueType type, const char* at) {
  switch (type) {
    case GgufValueType::kU8:
      return Load<std::uint8_t>(at);
    case GgufValueType::kI8:
      return Load<std::int8_t>(at);
    case GgufValueType::kU16:
      return Load<std::uint16_t>(at);
    case GgufValueType::kI16:
      return Load<std::int16_t>(at);
    case GgufValueType::kU32:
      return Load<std::uint32_t>(at);
    case GgufValueType::kI32:
      return Load<std::int32_t>(at);
    case GgufValueType::kI64:
      return Load<std::int64_t>(at);
    case GgufValueType::kU64:
      if (Load<std::int64_t>(at) < 0) return std::nullopt;
      return Load<std::int64_t>(at);
    default:
      return std::nullopt;
  }
}

// The number that was meant: the shortest decimal that rounds to this f32.
double Decimal(float value) {
  if (!std::isfinite(value)) return value;
  return std::strtod(fmt::format("{}", value).c_str(), nullptr);
}

// The integers of an array; empty if it is not one of integers.
std::vector<std::int64_t> Integers(const GgufValue& value) {
  const std::size_t size = BytesOf(value.element);
  std::vector<std::int64_t> numbers;
  if (size == 0) return numbers;
  numbers.reserve(value.count);
  for (std::uint64_t i = 0; i < value.count; ++i) {
    const auto number = Integer(value.element, value.bytes.data() + i * size);
    if (!number) return {};
    numbers.push_back(*number);
  }
  return numbers;
}

// The one integer that a value holds; an array must say the same again and again.
std::optional<std::int64_t> OneInteger(const GgufValue& value) {
  if (value.type != GgufValueType::kArray) return Integer(value.type, value.bytes.data());
  const std::vector<std::int64_t> numbers = Integers(value);
  const bool same =
      std::adjacent_find(numbers.begin(), numbers.end(), std::not_equal_to<>()) == numbers.end();
  if (numbers.empty() || !same) return std::nullopt;
  return numbers.front();
}

std::optional<double> OneReal(const GgufValue& value) {
  if (value.type == GgufValueType::kF32) return Decimal(Load<float>(value.bytes.data()));
  if (value.type == GgufValueType::kF64) return Load<double>(value.bytes.data());
  return std::nullopt;
}

}  // namespace

std::string_view Name(GgufValueType type) { return kTypes[static_cast<std::size_t>(type)].name; }

std::size_t BytesOf(GgufValueType type) { return kTypes[static_cast<std::size_t>(type)].bytes; }

std::string GgufValue::TypeName() const {
  if (type != GgufValueType::kArray) return std::string(Name(type));
  return fmt::format("array of {}", Name(element));
}

GgufMetadata::GgufMetadata(std::string file, std::vector<char> bytes,
                           const std::vector<Place>& places)
    : file_(std::move(file)), bytes_(std::move(bytes)) {
  const std::string_view all(bytes_.data(), bytes_.size());
  entries_.reserve(places.size());
  for (const Place& p : places) {
    entries_.push_back({all.substr(p.key, p.key_bytes),
                        {p.type, p.element, p.count, all.substr(p.value, p.value_bytes)}});
  }
  std::ranges::sort(entries_, {}, &Entry::key);
  const auto doubled = std::ranges::adjacent_find(entries_, {}, &Entry::key);
  if (doubled != entries_.end()) {
    Throw<CheckpointError>("{}: metadata key {} is given twice", file_, QuotedToken(doubled->key));
  }
}

const GgufValue* GgufMetadata::Find(std::string_view key) const {
  const auto at = std::ranges::lower_bound(entries_, key, {}, &Entry::key);
  return at == entries_.end() || at->key != key ? nullptr : &at->value;
}

const GgufValue* GgufMetadata::FindOfType(std::string_view key, GgufValueType type) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || value->type == type) return value;
  Throw<CheckpointError>("{}: expected {}, found {}", Where(key), Name(type), value->TypeName());
}

std::int64_t GgufMetadata::Int(std::string_view key, IntRange range,
                               std::optional<std::int64_t> absent) const {
  const GgufValue* value = Find(key);
  if (value == nullptr && absent) return *absent;
  if (value == nullptr) Missing(key);
  const auto number = OneInteger(*value);
  if (number && *number >= range.low && *number <= range.high) return *number;
  Throw<CheckpointError>("{}: expected a whole number from {} to {}, found {}", Where(key),
                         range.low, range.high,
                         number ? std::to_string(*number) : value->TypeName());
}

double GgufMetadata::Real(std::string_view key, RealRange range,
                          std::optional<double> absent) const {
  const GgufValue* value = Find(key);
  if (value == nullptr && absent) return *absent;
  if (value == nullptr) Missing(key);
  const auto number = OneReal(*value);
  if (number && *number >= range.low && *number <= range.high) return *number;  // never for NaN
  Throw<CheckpointError>("{}: expected a real number from {} to {}, found {}", Where(key),
                         range.low, range.high,
                         number ? fmt::format("{}", *number) : value->TypeName());
}

bool GgufMetadata::Bool(std::string_view key, bool absent) const {
  const GgufValue* value = FindOfType(key, GgufValueType::kBool);
  return value == nullptr ? absent : value->bytes[0] != 0;
}

std::string_view GgufMetadata::String(std::string_view key,
                                      std::optional<std::string_view> absent) const {
  const GgufValue* value = FindOfType(key, GgufValueType::kString);
  if (value == nullptr && !absent) Missing(key);
  return value == nullptr ? *absent : value->bytes;
}

std::vector<std::string_view> GgufMetadata::Strings(std::string_view key) const {
  const GgufValue* value = FindOfType(key, GgufValueType::kArray);
  std::vector<std::string_view> strings;
  if (value == nullptr) return strings;
  if (value->element != GgufValueType::kString) {
    Throw<CheckpointError>("{}: expected array of string, found {}", Where(key), value->TypeName());
  }
  strings.reserve(value->count);
  std::string_view rest = value->bytes;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto length = Load<std::uint64_t>(rest.data());
    strings.push_back(rest.substr(sizeof(length), length));
    rest.remove_prefix(sizeof(length) + length);
  }
  return strings;
}

std::vector<std::int64_t> GgufMetadata::Ints(std::string_view key) const {
  const GgufValue* value = FindOfType(key, GgufValueType::kArray);
  if (value == nullptr) return {};
  std::vector<std::int64_t> numbers = Integers(*value);
  if (numbers.size() != value->count) {
    Throw<CheckpointError>("{}: expected array of integers, found {}", Where(key),
                           value->TypeName());
  }
  return numbers;
}

std::string GgufMetadata::Where(std::string_view key) const {
  return fmt::format("{}: {}", file_, key);
}

void GgufMetadata::Missing(std::string_view key) const {
  Throw<CheckpointError>("{}: missing in the metadata", Where(key));
}

}  // namespace tandem
