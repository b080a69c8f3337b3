#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "memory/file.h"
#include "model/safetensors.h"
#include "model/tensor_source.h"

namespace tandem {

// The safetensors files of a model folder, open. Reads with pread: nothing is mapped, so a file
// that shrinks while it is read is an error and not a signal.
class Checkpoint final : public TensorSource {
 public:
  // Opens the index and its shards, or the single file, and reads the headers. Throws
  // CheckpointError naming all shards that are missing, all tensors that a shard lacks and all that
  // are in two.
  explicit Checkpoint(const std::filesystem::path& model_dir);

  void Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
            std::span<std::byte> dst) const override;

  std::span<const File> files() const { return files_; }

  struct Located {
    int file = -1;
    SafetensorsEntry entry;
  };
  // All tensors of all files by name.
  const std::map<std::string, Located, std::less<>>& tensors() const { return tensors_; }

 private:
  void OpenIndex(const std::filesystem::path& model_dir);
  void OpenShards(const std::filesystem::path& model_dir, const std::vector<std::string>& names);
  void CheckIndex(const std::map<std::string, std::string, std::less<>>& weight_map) const;
  void CollectTensors();

  std::vector<File> files_;
  std::map<std::string, Located, std::less<>> tensors_;
};

// Offset of the first NaN (0x7F, 0xFF) among FP8 codes, or codes.size().
std::size_t FindFp8Nan(std::span<const std::byte> codes);

}  // namespace tandem
