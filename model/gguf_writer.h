#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dtype.h"
#include "memory/file.h"
#include "model/gguf_metadata.h"

namespace tandem {

// The key-value part of a GGUF file, in the order of the calls. Keys are the caller's to keep
// unique.
class GgufKeyValues {
 public:
  void Add(std::string_view key, std::uint32_t value);
  void Add(std::string_view key, float value);
  void Add(std::string_view key, bool value);
  void Add(std::string_view key, std::string_view value);
  void Add(std::string_view key, const char* value) { Add(key, std::string_view(value)); }
  void Add(std::string_view key, std::span<const std::string> values);
  void Add(std::string_view key, std::span<const std::int32_t> values);
  void Add(std::string_view key, std::span<const std::uint64_t> values);
  void Add(std::string_view key, const GgufValue& value);  // as another file has it

  const std::string& bytes() const { return bytes_; }
  std::uint64_t count() const { return count_; }

 private:
  void Key(std::string_view key, GgufValueType type);
  std::string bytes_;
  std::uint64_t count_ = 0;
};

// A tensor of the file: its dimensions as GGUF counts them, the one that varies fastest first.
struct GgufOutTensor {
  std::string name;
  std::vector<std::int64_t> dimensions;
  DType format = DType::kF32;

  std::int64_t elements() const;
  std::uint64_t bytes() const;
};

// Metadata of the manifest: the tensors' names, and of each the XXH3 (64 bits) of its data.
inline constexpr std::string_view kGgufHashNames = "tandem.xxh3.names";
inline constexpr std::string_view kGgufHashValues = "tandem.xxh3.values";

// Writes a GGUF file, version 3, in which the data of all tensors arrives in pieces from several
// threads. The file appears under its name when it is complete, and not at all otherwise.
class GgufWriter {
 public:
  // Takes the room for the whole file at once. Throws SystemError (74) if there is none.
  GgufWriter(const std::filesystem::path& path, GgufKeyValues metadata,
             std::vector<GgufOutTensor> tensors);
  ~GgufWriter();

  std::span<const GgufOutTensor> tensors() const { return tensors_; }
  std::uint64_t file_bytes() const { return file_bytes_; }

  // The bytes [offset, offset + bytes.size()) of a tensor's data. Thread-safe; waits until the
  // piece before it has been written, as the hash is over the data in order: pieces must be handed
  // out in order.
  void Write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes);
  // After a failure elsewhere: those who wait throw, so that their threads end.
  void Stop();

  // Writes the header with the hashes and puts the file in place. All data must have come.
  void Finish();

 private:
  struct Hash;
  std::string Header(std::span<const std::uint64_t> hashes) const;

  GgufKeyValues metadata_;
  std::vector<GgufOutTensor> tensors_;
  std::vector<std::string> names_;
  std::vector<std::uint64_t> offsets_;  // from the start of the data
  std::uint64_t data_start_ = 0;
  std::uint64_t file_bytes_ = 0;
  AtomicFileWriter file_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<Hash> hashes_;
  bool stopped_ = false;
};

}  // namespace tandem
