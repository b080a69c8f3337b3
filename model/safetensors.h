#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dtype.h"
#include "memory/file.h"

namespace tandem {

// A safetensors file: u64 header length (little endian), a JSON header, then the tensors' bytes.

inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

// One tensor, as the header gives it.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kOther;
  std::string dtype_name;  // as written, for what kOther stands for
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t bytes = 0;
};

// Everything in it is checked: the tensors tile the data exactly, and shapes agree with bytes.
// Only an unknown dtype is let through (kOther), to be refused by whoever needs that tensor.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  // sorted by name
  std::map<std::string, std::string> metadata;

  const SafetensorsEntry* Find(std::string_view name) const;
};

// The length of the JSON header, from the first bytes of a file (8, or all if it has fewer).
// Throws CheckpointError naming `file`; knows the pointers that git-lfs leaves in place of files.
std::uint64_t SafetensorsHeaderLength(std::span<const std::byte> start, std::uint64_t file_size,
                                      const std::string& file);

// Parses the JSON header of a file of that size.
SafetensorsHeader ParseSafetensorsHeader(std::string_view json, std::uint64_t file_size,
                                         const std::string& file);

SafetensorsHeader ReadSafetensorsHeader(const File& file);

// A file that is open with its header parsed: for small files (ids, goldens), in which a tensor is
// read as a whole.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const SafetensorsHeader& header() const { return header_; }
  // Throws CheckpointError if there is no such tensor.
  const SafetensorsEntry& Get(std::string_view name) const;
  std::vector<std::byte> Bytes(std::string_view name) const;
  // As Bytes, for a tensor that must be of type F32 or I32.
  std::vector<float> Floats(std::string_view name) const;
  std::vector<std::int32_t> Ints(std::string_view name) const;

 private:
  template <class T>
  std::vector<T> Values(std::string_view name, DType dtype) const;

  File file_;
  SafetensorsHeader header_;
};

// A tensor to be written; `bytes` is non-owning.
struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

// Writes the file under a temporary name and renames it, so that it is whole or absent.
void WriteSafetensors(const std::filesystem::path& path, std::span<const SafetensorsTensor> tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace tandem
