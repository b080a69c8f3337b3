#include "memory/cl_probe.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <optional>
#include <string_view>

#include "memory/error.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kLimit{10};
constexpr std::size_t kMaxReply = std::size_t{1} << 20;  // a driver gone mad must not fill memory

// One walk over the fields serves both directions, so that they cannot disagree.
template <class Archive>
void Fields(Archive& archive, ClDeviceInfo& d) {
  archive.Number(d.index);
  archive.Number(d.platform_index);
  archive.Number(d.device_index);
  for (std::string* text :
       {&d.name, &d.vendor, &d.platform, &d.platform_version, &d.driver_version, &d.device_version,
        &d.opencl_c_version, &d.extensions, &d.pci_address}) {
    archive.Text(*text);
  }
  archive.Number(d.is_cpu);
  archive.Number(d.global_mem_bytes);
  archive.Number(d.max_alloc_bytes);
  archive.Number(d.local_mem_bytes);
  archive.Number(d.compute_units);
  archive.Number(d.clock_mhz);
  archive.Number(d.max_work_group_size);
}

class Writer {
 public:
  template <class T>
  void Number(T value) {
    const auto wide = static_cast<std::uint64_t>(value);
    bytes_.append(reinterpret_cast<const char*>(&wide), sizeof(wide));
  }
  void Text(const std::string& text) {
    Number(text.size());
    bytes_ += text;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Reads what Writer wrote; after a reply that ends early `ok` is false and values are empty.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  template <class T>
  void Number(T& value) {
    std::uint64_t wide = 0;
    const std::string_view taken = Take(sizeof(wide));
    if (ok_) std::memcpy(&wide, taken.data(), sizeof(wide));
    value = static_cast<T>(wide);
  }
  void Text(std::string& text) {
    std::uint64_t size = 0;
    Number(size);
    text = Take(size);
  }
  bool ok() const { return ok_; }

 private:
  std::string_view Take(std::uint64_t size) {
    ok_ = ok_ && size <= rest_.size();
    if (!ok_) return {};
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  std::string_view rest_;
  bool ok_ = true;
};

std::string Serialise(ClProbe& probe) {
  Writer writer;
  writer.Text(probe.problem);
  writer.Number(probe.devices.size());
  for (ClDeviceInfo& device : probe.devices) Fields(writer, device);
  return writer.bytes();
}

std::optional<ClProbe> Parse(std::string_view bytes) {
  Reader reader(bytes);
  ClProbe probe;
  std::uint64_t count = 0;
  reader.Text(probe.problem);
  reader.Number(count);
  for (std::uint64_t i = 0; i < count && reader.ok(); ++i) {
    Fields(reader, probe.devices.emplace_back());
  }
  return reader.ok() ? std::optional(std::move(probe)) : std::nullopt;
}

// The child: nothing of the parent may run here after the fork but this, hence _exit.
[[noreturn]] void ProbeAndExit(int fd) {
  ClProbe probe;
  try {
    probe = ListAllClDevices();
  } catch (const std::exception& e) {
    probe = {{}, e.what()};
  }
  const std::string reply = Serialise(probe);
  for (std::size_t sent = 0; sent < reply.size();) {
    const ssize_t n = write(fd, reply.data() + sent, reply.size() - sent);
    if (n < 0 && errno != EINTR) _exit(1);
    if (n > 0) sent += static_cast<std::size_t>(n);
  }
  _exit(0);
}

// All that the child writes until it closes the pipe; false when time or space ran out first.
bool ReadReply(int fd, Clock::time_point deadline, std::string& reply) {
  std::array<char, 4096> chunk{};
  while (reply.size() <= kMaxReply) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd waiting{fd, POLLIN, 0};
    if (poll(&waiting, 1, static_cast<int>(left)) <= 0) continue;  // EINTR, or the time is up
    const ssize_t n = read(fd, chunk.data(), chunk.size());
    if (n == 0) return true;
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) reply.append(chunk.data(), static_cast<std::size_t>(n));
  }
  return false;
}

// Ends a child that has answered, crashed or hung, and says how it ended.
int Reap(pid_t child) {
  kill(child, SIGKILL);  // a child that has exited already is not affected
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

ClProbe Judge(bool complete, const std::string& reply, int status) {
  // A whole answer counts even if something the driver started still holds the pipe open.
  if (std::optional<ClProbe> probe = Parse(reply)) return *std::move(probe);
  constexpr std::string_view advice =
      "check the drivers in /etc/OpenCL/vendors, or run with --device none";
  if (!complete) {
    return {{},
            fmt::format("an OpenCL driver hung for {} s while devices were listed; {}",
                        kLimit.count(), advice)};
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
    return {{},
            fmt::format("an OpenCL driver crashed while devices were listed ({}); {}",
                        strsignal(WTERMSIG(status)), advice)};
  }
  return {{},
          fmt::format("an OpenCL driver ended the process that listed devices (status {}); {}",
                      WIFEXITED(status) ? WEXITSTATUS(status) : -1, advice)};
}

ClProbe ProbeInChild() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return {{}, fmt::format("cannot probe OpenCL: pipe: {}", std::strerror(errno))};
  }
  const pid_t child = fork();
  if (child == 0) ProbeAndExit(ends[1]);
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return {{}, fmt::format("cannot probe OpenCL: fork: {}", std::strerror(errno))};
  }
  std::string reply;
  const bool complete = ReadReply(ends[0], Clock::now() + kLimit, reply);
  close(ends[0]);
  return Judge(complete, reply, Reap(child));
}

// What this process has found out; see NoteClDeviceOpened.
struct ProbeMemory {
  std::mutex mutex;
  bool opened = false;
  std::optional<ClProbe> last;
};
ProbeMemory& Memory() {
  static ProbeMemory memory;
  return memory;
}

}  // namespace

void NoteClDeviceOpened() {
  const std::lock_guard lock(Memory().mutex);
  Memory().opened = true;
}

ClProbe ProbeClDevices() {
  ProbeMemory& memory = Memory();
  const std::lock_guard lock(memory.mutex);
  if (!memory.opened || !memory.last) memory.last = ProbeInChild();
  return *memory.last;
}

}  // namespace tandem
