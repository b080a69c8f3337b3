#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/range.h"

namespace tandem {

// Types of metadata, by their numbers in files.
enum class GgufValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};
inline constexpr std::uint32_t kNumGgufValueTypes = 13;
std::string_view Name(GgufValueType type);  // "u32", "string", ...
std::size_t BytesOf(GgufValueType type);    // of a number or bool; 0 for strings and arrays

// One value as it lies in the file. A string is its bytes; an array is its elements one after the
// other, strings among them with their u64 length before. Non-owning.
struct GgufValue {
  GgufValueType type = GgufValueType::kU8;
  GgufValueType element = GgufValueType::kU8;  // of an array
  std::uint64_t count = 1;                     // elements of an array
  std::string_view bytes;

  std::string TypeName() const;  // "u32", "array of strings"
};

// The key-value pairs of a GGUF file. Owns their bytes, and nothing but them: its memory is the
// file's. Getters throw CheckpointError naming file and key for a value of the wrong type or out of
// range, and for one that is missing unless they are told what absence means.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  GgufMetadata(GgufMetadata&&) = default;
  GgufMetadata& operator=(GgufMetadata&&) = default;
  // A pair by its place in `bytes`.
  struct Place {
    std::size_t key = 0;
    std::size_t key_bytes = 0;
    std::size_t value = 0;
    std::size_t value_bytes = 0;
    GgufValueType type = GgufValueType::kU8;
    GgufValueType element = GgufValueType::kU8;
    std::uint64_t count = 1;
  };
  GgufMetadata(std::string file, std::vector<char> bytes, const std::vector<Place>& places);

  struct Entry {
    std::string_view key;
    GgufValue value;
  };
  const std::vector<Entry>& entries() const { return entries_; }  // sorted by key
  const std::string& file() const { return file_; }

  const GgufValue* Find(std::string_view key) const;
  bool Has(std::string_view key) const { return Find(key) != nullptr; }

  // Any integer type serves. An array serves too if all of its elements are the same: some keys
  // may be given layer by layer.
  std::int64_t Int(std::string_view key, IntRange range,
                   std::optional<std::int64_t> absent = std::nullopt) const;
  // An f32 stands for the decimal number that was rounded to it: 1e-6, not 9.99999997e-7.
  double Real(std::string_view key, RealRange range,
              std::optional<double> absent = std::nullopt) const;
  bool Bool(std::string_view key, bool absent) const;
  std::string_view String(std::string_view key,
                          std::optional<std::string_view> absent = std::nullopt) const;
  // Arrays; empty if absent. Strings are views of this object's bytes.
  std::vector<std::string_view> Strings(std::string_view key) const;
  std::vector<std::int64_t> Ints(std::string_view key) const;

  // "model.gguf: general.alignment"
  std::string Where(std::string_view key) const;
  [[noreturn]] void Missing(std::string_view key) const;

 private:
  const GgufValue* FindOfType(std::string_view key, GgufValueType type) const;

  std::string file_;
  std::vector<char> bytes_;  // moves without its contents moving
  std::vector<Entry> entries_;
};

}  // namespace tandem
