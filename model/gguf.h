#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dtype.h"
#include "memory/file.h"
#include "model/gguf_metadata.h"

namespace tandem {

// A GGUF file: "GGUF", version, counts; metadata; tensor infos; then, aligned, the tensors' bytes.

inline constexpr std::uint64_t kGgufAlignment = 32;  // where general.alignment is silent

// One tensor, as its file describes it.
struct GgufTensor {
  std::string name;
  std::vector<std::int64_t> ne;  // sizes as in the file: that of a row comes first
  DType dtype = DType::kOther;   // kOther: a type of which weights do not load
  std::string_view type_name;    // ggml's name for it
  int file = 0;                  // index of the file it is in
  std::uint64_t offset = 0;      // from the start of that file
  std::uint64_t bytes = 0;
};

// What stands before the data of one file, all of it checked: every tensor lies inside the file,
// aligned, and overlaps no other; sizes agree with types; no name and no key occurs twice.
struct GgufHeader {
  std::uint32_t version = 0;
  std::uint64_t alignment = kGgufAlignment;
  std::uint64_t data_start = 0;  // from the start of the file
  std::uint64_t data_end = 0;    // behind the last tensor
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the order of the file
};

// Where a header is read from: a file, or a test's memory. `read` fills from an offset within
// [0, size); `name` is for messages.
struct GgufInput {
  std::string name;
  std::uint64_t size = 0;
  std::function<void(std::uint64_t offset, std::span<std::byte> dst)> read;
};

// Reads and checks a header (version 2 or 3). Memory is bounded by the bytes read: no count is
// trusted. Throws CheckpointError naming the file, and the offset, key or tensor.
GgufHeader ParseGguf(const GgufInput& input);

// A model in GGUF, open: one file, or all parts of a split one (NAME-00001-of-00003.gguf), of which
// any may be named. Reads headers only. Throws CheckpointError, also for parts that are missing
// (all are named) or that do not belong together.
class Gguf {
 public:
  explicit Gguf(const std::filesystem::path& path);

  const std::string& path() const { return path_; }  // the file that was named
  std::span<const File> files() const { return files_; }
  // Of the first part: the others' says only which part they are.
  const GgufMetadata& metadata() const { return metadata_; }
  std::uint32_t version() const { return version_; }
  std::uint64_t alignment() const { return alignment_; }
  // Of all parts, in their order; names are unique.
  std::span<const GgufTensor> tensors() const { return tensors_; }
  const GgufTensor* Find(std::string_view name) const;
  // What is odd but harmless, a line each: bytes behind the last tensor.
  std::span<const std::string> warnings() const { return warnings_; }

  // The files, for a TensorSource that outlives this.
  std::vector<File> TakeFiles() { return std::move(files_); }

 private:
  void OpenParts(std::int64_t count);
  void Add(File file, GgufHeader header);
  void BuildIndex();

  std::string path_;
  std::vector<File> files_;
  GgufMetadata metadata_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = kGgufAlignment;
  std::vector<GgufTensor> tensors_;
  std::vector<std::uint32_t> by_name_;  // indices of tensors_
  std::vector<std::string> warnings_;
};

// Whether a model path is a file, which is then read as GGUF, and not a folder.
bool IsModelFile(const std::filesystem::path& path);

}  // namespace tandem
