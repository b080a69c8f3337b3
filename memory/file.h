#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace tandem {

// A file open for reading, owned. Regular files only: pipes, devices and folders are refused, so
// that a read can neither block nor go on for ever. Movable; safe to read from several threads.
class File {
 public:
  // Throws SystemError: kMissingFile if there is no such file, kIo with the reason for the rest.
  static File Open(const std::filesystem::path& path);

  // Opens `name`, which must be a plain file name, inside `folder`, and never anything outside of
  // it: symbolic links may not leave the folder. The one exception are the links of a Hugging Face
  // cache, <repo>/snapshots/<revision>/<name> -> ../../blobs/<hash>. Throws CheckpointError for a
  // name or link that would escape.
  static File OpenInFolder(const std::filesystem::path& folder, const std::string& name);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }  // for messages
  std::uint64_t size() const { return size_; }       // when it was opened

  // Fills dst from `offset` on. Throws SystemError (kIo) with file and offset when the system
  // fails or the file ends too early.
  void PReadExact(std::uint64_t offset, std::span<std::byte> dst) const;

 private:
  File(int fd, std::string path);

  int fd_ = -1;
  std::uint64_t size_ = 0;
  std::string path_;
};

// Whether a file of that name can be opened in the folder by name alone: not empty, not "." or
// "..", no separator, no NUL, no URL.
bool IsPlainFileName(std::string_view name);

// $XDG_CACHE_HOME/tandem/<name> (or ~/.cache/tandem/<name>); empty where neither variable is set.
std::filesystem::path CacheFolder(std::string_view name);

// The text of a file. Throws CheckpointError if it is larger than max_bytes.
std::string ReadWholeFile(const File& file, std::uint64_t max_bytes);
std::string ReadWholeFile(const std::filesystem::path& path, std::uint64_t max_bytes);

// Reads until dst is full, going on after short and interrupted reads. `read` is ::pread, or a
// test's stand-in.
using PReadFunction = ssize_t (*)(int fd, void* to, std::size_t bytes, off_t offset);
void PReadFully(PReadFunction read, int fd, const std::string& path, std::uint64_t offset,
                std::span<std::byte> dst);

// A file that appears under its name only when it is complete: written beside it under a temporary
// name, renamed by Commit, removed if Commit is never reached.
class AtomicFileWriter {
 public:
  explicit AtomicFileWriter(const std::filesystem::path& path);
  AtomicFileWriter(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(const AtomicFileWriter&) = delete;
  ~AtomicFileWriter();

  void Write(std::span<const std::byte> bytes);
  void Write(std::string_view text) { Write(std::as_bytes(std::span(text))); }
  // Takes the room for so many bytes now, so that a full disk shows before the work and not after
  // it. What is not written reads as zeros.
  void Reserve(std::uint64_t bytes);
  // Writes at a place of its own, from any thread; not to be mixed with Write.
  void WriteAt(std::uint64_t offset, std::span<const std::byte> bytes);
  void Commit();

 private:
  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

}  // namespace tandem
