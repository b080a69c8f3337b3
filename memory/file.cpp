#include "memory/file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "memory/error.h"

namespace tandem {
namespace {

// O_NONBLOCK: opening a pipe without a writer must not hang. It means nothing for regular files.
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
constexpr int kMaxLinks = 8;  // links to links inside one folder

struct Fd {
  explicit Fd(int number) : fd(number) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
  int fd;
};

ExitCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return ExitCode::kMissingFile;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return ExitCode::kOsLimit;
    default:
      return ExitCode::kIo;
  }
}

[[noreturn]] void ThrowErrno(const std::string& path, std::string_view action, int error) {
  throw SystemError(fmt::format("{}: {}: {}", path, action, std::strerror(error)), CodeOf(error));
}

std::string_view KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "a special file";
}

[[noreturn]] void ThrowEscape(const std::string& path, const std::string& target) {
  Throw<CheckpointError>(
      "{}: links to '{}', outside of the model folder; put the file itself there", path, target);
}

// RESOLVE_BENEATH makes the kernel refuse (EXDEV) any way out of the folder. -1 and errno.
int OpenBeneath(int folder, const std::string& name) {
  open_how how{};
  how.flags = kReadFlags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(::syscall(SYS_openat2, folder, name.c_str(), &how, sizeof(how)));
}

// The target of a symbolic link; nullopt if it is none.
std::optional<std::string> LinkTarget(int folder, const std::string& name) {
  std::array<char, 4096> target{};
  const ssize_t length = ::readlinkat(folder, name.c_str(), target.data(), target.size());
  if (length < 0) return std::nullopt;
  return std::string(target.data(), static_cast<std::size_t>(length));
}

// The same promise without openat2 (old kernels, and containers that filter it): links are never
// followed by the kernel; a link to a plain name is a name in the same folder, and is opened so.
int OpenWithoutLinks(int folder, std::string name) {
  for (int links = 0; links <= kMaxLinks; ++links) {
    const int fd = ::openat(folder, name.c_str(), kReadFlags | O_NOFOLLOW);
    if (fd >= 0 || errno != ELOOP) return fd;
    const std::optional<std::string> target = LinkTarget(folder, name);
    if (!target || !IsPlainFileName(*target)) {
      errno = EXDEV;
      return -1;
    }
    name = *target;
  }
  errno = ELOOP;
  return -1;
}

// A link of a Hugging Face cache, opened without following it: its name is read and looked up in
// the blobs folder beside the snapshots. nullopt if it is no such link; -1 and errno if it is and
// cannot be opened.
std::optional<int> OpenCacheBlob(int folder, const std::filesystem::path& path,
                                 const std::string& target) {
  constexpr std::string_view kBlobs = "../../blobs/";
  if (target.substr(0, kBlobs.size()) != kBlobs) return std::nullopt;
  const std::string blob = target.substr(kBlobs.size());
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  if (error || real.parent_path().filename() != "snapshots") return std::nullopt;
  const Fd blobs(::openat(folder, "../../blobs", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (blobs.fd < 0 || !IsPlainFileName(blob)) return std::nullopt;
  return ::openat(blobs.fd, blob.c_str(), kReadFlags | O_NOFOLLOW);
}

int OpenCacheLink(int folder, const std::filesystem::path& folder_path, const std::string& name) {
  const std::string path = (folder_path / name).string();
  const std::string target = LinkTarget(folder, name).value_or("?");
  const std::optional<int> fd = OpenCacheBlob(folder, folder_path, target);
  if (!fd) ThrowEscape(path, target);
  return *fd;
}

}  // namespace

bool IsPlainFileName(std::string_view name) {
  if (name.empty() || name == "." || name == "..") return false;
  if (name.substr(0, 5) == "file:") return false;
  return name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

File::File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {
  struct stat info {};
  const bool known = ::fstat(fd_, &info) == 0;
  const int error = errno;
  if (known && S_ISREG(info.st_mode)) {
    size_ = static_cast<std::uint64_t>(info.st_size);
    return;
  }
  ::close(fd_);
  if (!known) ThrowErrno(path_, "cannot be examined", error);
  throw SystemError(fmt::format("{}: is {}, expected a regular file", path_, KindOf(info.st_mode)),
                    ExitCode::kIo);
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), size_(other.size_), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

File File::Open(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), kReadFlags);
  if (fd < 0) ThrowErrno(path.string(), "cannot be opened", errno);
  return File(fd, path.string());
}

File File::OpenInFolder(const std::filesystem::path& folder, const std::string& name) {
  if (!IsPlainFileName(name)) {
    Throw<CheckpointError>("{}: '{}': expected the name of a file in this folder, without any path",
                           folder.string(), name);
  }
  const Fd root(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (root.fd < 0) ThrowErrno(folder.string(), "cannot be opened", errno);
  const std::string path = (folder / name).string();
  int fd = OpenBeneath(root.fd, name);
  if (fd < 0 && (errno == ENOSYS || errno == EPERM)) fd = OpenWithoutLinks(root.fd, name);
  if (fd < 0 && errno == EXDEV) fd = OpenCacheLink(root.fd, folder, name);
  if (fd < 0) ThrowErrno(path, "cannot be opened", errno);
  return File(fd, path);
}

void PReadFully(PReadFunction read, int fd, const std::string& path, std::uint64_t offset,
                std::span<std::byte> dst) {
  std::size_t done = 0;
  while (done < dst.size()) {
    const auto at = static_cast<off_t>(offset + done);
    const ssize_t got = read(fd, dst.data() + done, dst.size() - done, at);
    if (got > 0) {
      done += static_cast<std::size_t>(got);
    } else if (got == 0) {
      throw SystemError(fmt::format("{}: ends at offset {}, expected {} bytes from offset {}", path,
                                    at, dst.size(), offset),
                        ExitCode::kIo);
    } else if (errno != EINTR) {
      const int error = errno;
      throw SystemError(fmt::format("{}: reading {} bytes at offset {}: {}", path,
                                    dst.size() - done, at, std::strerror(error)),
                        ExitCode::kIo);
    }
  }
}

void File::PReadExact(std::uint64_t offset, std::span<std::byte> dst) const {
  PReadFully(::pread, fd_, path_, offset, dst);
}

std::filesystem::path CacheFolder(std::string_view name) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return std::filesystem::path(cache) / "tandem" / name;
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return std::filesystem::path(home) / ".cache" / "tandem" / name;
}

std::string ReadWholeFile(const File& file, std::uint64_t max_bytes) {
  if (file.size() > max_bytes) {
    Throw<CheckpointError>("{}: has {} bytes, expected at most {}", file.path(), file.size(),
                           max_bytes);
  }
  std::string text(file.size(), '\0');
  file.PReadExact(0, std::as_writable_bytes(std::span(text)));
  return text;
}

std::string ReadWholeFile(const std::filesystem::path& path, std::uint64_t max_bytes) {
  return ReadWholeFile(File::Open(path), max_bytes);
}

AtomicFileWriter::AtomicFileWriter(const std::filesystem::path& path)
    : path_(path.string()), temporary_(fmt::format("{}.{}.tmp", path_, ::getpid())) {
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd_ < 0) ThrowErrno(temporary_, "cannot be created", errno);
}

AtomicFileWriter::~AtomicFileWriter() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFileWriter::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno != EINTR) ThrowErrno(path_, "cannot be written", errno);
    if (put > 0) bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void AtomicFileWriter::Reserve(std::uint64_t bytes) {
  const auto length = static_cast<off_t>(bytes);
  // Not posix_fallocate, which would write every block where the file system cannot reserve: there
  // a full disk shows at the write.
  if (::fallocate(fd_, 0, 0, length) != 0 && errno != EOPNOTSUPP) {
    ThrowErrno(path_, fmt::format("no room for {} bytes", bytes), errno);
  }
  if (::ftruncate(fd_, length) != 0) ThrowErrno(path_, "cannot be written", errno);
}

void AtomicFileWriter::WriteAt(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno != EINTR) ThrowErrno(path_, "cannot be written", errno);
    if (put <= 0) continue;
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
}

void AtomicFileWriter::Commit() {
  // Close reports what a network or quota file system held back until now.
  if (::close(std::exchange(fd_, -1)) != 0) ThrowErrno(path_, "cannot be written", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    ThrowErrno(path_, "cannot be put in place", errno);
  }
  temporary_.clear();
}

}  // namespace tandem
