#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace tandem::cl {

// Program binaries on disk, one file per key. The key is the full text of all that the binary
// depends on; the file holds it and Load compares it, so that a file of another build, device or
// driver, and a hash collision, are misses. A damaged, truncated or unreadable file is a miss too;
// a failure to write is no error: the next run compiles again. An empty directory means no cache.
class ProgramCache {
 public:
  explicit ProgramCache(std::filesystem::path directory) : directory_(std::move(directory)) {}

  // False: asking the driver for a binary would be wasted time.
  bool enabled() const { return !directory_.empty(); }
  std::optional<std::vector<unsigned char>> Load(const std::string& key) const;
  void Store(const std::string& key, const std::vector<unsigned char>& binary) const noexcept;
  std::filesystem::path FileOf(const std::string& key) const;

 private:
  std::filesystem::path directory_;
};

}  // namespace tandem::cl
