#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tandem::test {

// Puts a GGUF file together byte by byte, by the format's description and with nothing of the
// program's own reader or writer; what is set by hand may be as wrong as a test wants it.
class GgufBuilder {
 public:
  // Numbers of value types.
  enum Type : std::uint32_t {
    kU8 = 0,
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
    kF64
  };

  template <class T>
  static std::string Bytes(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof(value)};
  }
  static std::string Text(std::string_view text) {
    return Bytes<std::uint64_t>(text.size()) + std::string(text);
  }

  // A pair as it lies in the file: key, number of the type, value.
  GgufBuilder& Pair(std::string_view key, std::uint32_t type, const std::string& value) {
    pairs.push_back({std::string(key), Text(key) + Bytes(type) + value});
    return *this;
  }
  GgufBuilder& U32(std::string_view key, std::uint32_t v) { return Pair(key, kU32, Bytes(v)); }
  GgufBuilder& F32(std::string_view key, float v) { return Pair(key, kF32, Bytes(v)); }
  GgufBuilder& Bool(std::string_view key, bool v) { return Pair(key, kBool, std::string(1, v)); }
  GgufBuilder& String(std::string_view key, std::string_view v) {
    return Pair(key, kString, Text(v));
  }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes = Bytes<std::uint32_t>(kString) + Bytes<std::uint64_t>(values.size());
    for (const std::string& value : values) bytes += Text(value);
    return Pair(key, kArray, bytes);
  }
  GgufBuilder& I32s(std::string_view key, const std::vector<std::int32_t>& values) {
    std::string bytes = Bytes<std::uint32_t>(kI32) + Bytes<std::uint64_t>(values.size());
    for (const std::int32_t value : values) bytes += Bytes(value);
    return Pair(key, kArray, bytes);
  }
  // Takes a key away, or puts another value in its place.
  GgufBuilder& Without(std::string_view key) {
    std::erase_if(pairs, [&](const auto& pair) { return pair.first == key; });
    return *this;
  }

  struct Tensor {
    std::string name;
    std::vector<std::int64_t> ne;
    std::uint32_t type = 0;  // F32
    std::string data;
    std::optional<std::uint64_t> offset;  // else behind the one before, aligned
    std::optional<std::uint32_t> dims;    // else that of ne
  };
  GgufBuilder& Add(Tensor tensor) {
    tensors.push_back(std::move(tensor));
    return *this;
  }
  Tensor& At(std::string_view name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    return tensors.at(tensors.size());  // throws
  }
  GgufBuilder& WithoutTensor(std::string_view name) {
    std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.name == name; });
    return *this;
  }

  // The file; nothing behind the last tensor.
  std::string Build() const {
    std::string file = magic + Bytes(version) + Bytes(tensor_count.value_or(tensors.size())) +
                       Bytes(pair_count.value_or(pairs.size()));
    for (const auto& pair : pairs) file += pair.second;
    std::uint64_t end = 0;
    std::vector<std::uint64_t> places;
    for (const Tensor& t : tensors) {
      places.push_back((end + alignment - 1) / alignment * alignment);
      end = places.back() + t.data.size();
      file += Text(t.name) + Bytes(t.dims.value_or(static_cast<std::uint32_t>(t.ne.size())));
      for (const std::int64_t size : t.ne) file += Bytes(size);
      file += Bytes(t.type) + Bytes(t.offset.value_or(places.back()));
    }
    if (tensors.empty()) return file;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    const std::size_t data = file.size();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      file.resize(data + places[i]);
      file += tensors[i].data;
    }
    return file;
  }

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> tensor_count;
  std::optional<std::uint64_t> pair_count;
  std::uint64_t alignment = 32;  // of the data; "general.alignment" is a pair like any other
  std::vector<std::pair<std::string, std::string>> pairs;
  std::vector<Tensor> tensors;
};

}  // namespace tandem::test
