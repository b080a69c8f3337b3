#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "memory/file.h"
#include "memory/host_buffer.h"
#include "placement/byte_size.h"
#include "placement/rates_store.h"
#include "runtime/doctor.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kBlock = std::size_t{4} << 20;
constexpr std::uint64_t kMostRead = std::uint64_t{256} << 20;
constexpr std::uint64_t kLeastRead = std::uint64_t{64} << 20;  // below, start-up costs show
constexpr int kThreads = 4;
constexpr double kSlow = 0.5e9;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

struct TestFile {
  fs::path path;
  bool temporary = false;
};

// The largest regular file; empty if none has kLeastRead bytes.
fs::path LargestFile(const fs::path& folder) {
  std::error_code none;
  fs::path largest;
  std::uint64_t most = kLeastRead;
  for (const auto& entry : fs::directory_iterator(folder, none)) {
    if (!entry.is_regular_file(none) || entry.file_size(none) < most) continue;
    most = entry.file_size(none);
    largest = entry.path();
  }
  return largest;
}

// Written out, so that reading it back comes from the disk.
fs::path WriteTemporary(const fs::path& folder) {
  std::string name = (folder / "tandem-doctor-XXXXXX").string();
  const Descriptor file(mkstemp(name.data()));
  if (file.get() < 0) {
    throw SystemError(fmt::format("{}: {}", folder.string(), std::strerror(errno)), ExitCode::kIo);
  }
  std::vector<char> block(kBlock);
  for (std::size_t i = 0; i < block.size(); ++i)
    block[i] = static_cast<char>(i * 2654435761u >> 13);
  for (std::uint64_t at = 0; at < kLeastRead; at += kBlock) {
    if (write(file.get(), block.data(), kBlock) == static_cast<ssize_t>(kBlock)) continue;
    const std::string reason = std::strerror(errno);
    unlink(name.c_str());
    throw SystemError(fmt::format("{}: {}", name, reason), ExitCode::kIo);
  }
  fsync(file.get());
  return name;
}

TestFile ChooseFile(const std::string& path) {
  if (!fs::is_directory(path)) return {path, false};
  const fs::path largest = LargestFile(path);
  if (!largest.empty()) return {largest, false};
  return {WriteTemporary(path), true};
}

struct DiskRate {
  double bytes_per_s = 0;
  std::uint64_t bytes = 0;
  bool direct = false;
};

// Whole blocks, which O_DIRECT wants anyway; a small file counts with what it has.
DiskRate ReadDisk(const fs::path& path) {
  const std::uint64_t size = File::Open(path).size();  // refuses what is no regular file
  const Descriptor direct(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  const Descriptor buffered(direct.get() < 0 ? open(path.c_str(), O_RDONLY | O_CLOEXEC) : -1);
  const int fd = direct.get() < 0 ? buffered.get() : direct.get();
  if (direct.get() < 0) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  std::atomic<std::uint64_t> next{0}, done{0};
  std::atomic<int> error{0};
  const std::uint64_t end = std::min(size, kMostRead);
  const auto read_blocks = [&] {
    const HostBuffer buffer(kBlock);
    for (std::uint64_t at = next += kBlock; at - kBlock < end; at = next += kBlock) {
      const ssize_t n = pread(fd, buffer.data(), kBlock, static_cast<off_t>(at - kBlock));
      if (n < 0) error = errno;
      done += static_cast<std::uint64_t>(std::max<ssize_t>(n, 0));
    }
  };
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::jthread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(read_blocks);
  threads.clear();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (error != 0 || done == 0) {
    throw SystemError(fmt::format("{}: read failed: {}", path.string(),
                                  error != 0 ? std::strerror(error) : "the file is empty"),
                      ExitCode::kIo);
  }
  return {static_cast<double>(done) / seconds.count(), done, direct.get() >= 0};
}

Finding DiskFinding(const TestFile& file, const DiskRate& rate) {
  Finding f{"disk"};
  f.found = fmt::format(
      "{:.2f} GB/s ({} of {}, {} threads, {})", rate.bytes_per_s / 1e9, FormatBytes(rate.bytes),
      file.temporary ? "a temporary file in " + file.path.parent_path().string()
                     : file.path.string(),
      kThreads,
      rate.direct ? "past the page cache" : "O_DIRECT refused: may come from the page cache");
  if (rate.bytes_per_s >= kSlow) return f;
  f.health = Health::kWarn;
  f.expected = fmt::format("{:.1f} GB/s: 100 GB of weights take {:.0f} minutes to load",
                           kSlow / 1e9, 100e9 / rate.bytes_per_s / 60);
  f.fix = "put the model on a local NVMe disk";
  return f;
}

}  // namespace

Finding CheckCacheFolder() {
  Finding f{"cache folder"};
  const fs::path folder = RatesFolder().parent_path();
  f.found = folder.empty() ? "neither XDG_CACHE_HOME nor HOME is set" : folder.string();
  std::error_code error;
  if (!folder.empty()) fs::create_directories(folder, error);
  if (!folder.empty() && !error && access(folder.c_str(), W_OK | X_OK) == 0) return f;
  f.health = Health::kWarn;
  if (!folder.empty()) f.found += ": cannot be written";
  f.expected = "a folder to write: compiled kernels and measured rates are lost without it";
  f.fix = "export XDG_CACHE_HOME=/a/folder/of/yours";
  return f;
}

Finding CheckRates(const Machine& machine) {
  Finding f{"measured rates"};
  std::vector<std::string> why;
  const auto stored = LoadRates(RatesFolder(), machine, why);
  f.found = why.empty() ? fmt::format("of {}", stored ? stored->when : "")
                        : fmt::format("{}", fmt::join(why, "; "));
  if (why.empty()) return f;
  f.health = Health::kWarn;
  f.expected = "measured for this CPU and every device: plans are made from assumed rates";
  f.fix = "tandem topology --measure";
  return f;
}

Finding CheckDisk(const std::string& path) {
  try {
    const TestFile file = ChooseFile(path);
    const auto remove = [&] {
      if (file.temporary) unlink(file.path.c_str());
    };
    try {
      const DiskRate rate = ReadDisk(file.path);
      remove();
      return DiskFinding(file, rate);
    } catch (...) {
      remove();
      throw;
    }
  } catch (const Error& error) {
    return {"disk",
            Health::kFail,
            error.what(),
            "a file that can be read, or a folder to write in",
            "name another with --disk, or skip it with --no-disk",
            error.code()};
  }
}

}  // namespace tandem
