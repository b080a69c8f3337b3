#include "placement/limits.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

std::optional<std::string> ReadText(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number after `key` and blanks or a colon at the start of a word: "MemFree:   123 kB".
std::optional<std::uint64_t> NumberAfter(std::string_view text, std::string_view key) {
  for (std::size_t at = text.find(key); at != text.npos; at = text.find(key, at + 1)) {
    if (at > 0 && text[at - 1] != '\n' && text[at - 1] != ' ') continue;
    std::string_view rest = text.substr(at + key.size());
    const std::size_t digit = rest.find_first_not_of(": \t");
    if (digit == 0 || digit == rest.npos) continue;
    rest.remove_prefix(digit);
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (parsed.ec == std::errc()) return value;
  }
  return std::nullopt;
}

// Absent file, "max" and the huge number that v1 writes for "no limit" are all no limit.
std::uint64_t ReadLimit(const std::string& path) {
  const std::optional<std::string> text = ReadText(path);
  std::uint64_t value = 0;
  if (!text || !(std::istringstream(*text) >> value)) return kNoLimit;
  return value < (std::uint64_t{1} << 60) ? value : kNoLimit;
}

std::uint64_t ResidentBytes(const std::string& root) {
  const std::optional<std::string> text = ReadText(root + "/proc/self/statm");
  std::uint64_t total = 0, resident = 0;
  if (text) std::istringstream(*text) >> total >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

struct CgroupFiles {
  const char* limit;
  const char* usage;
  const char* active_file;  // in memory.stat; both count the cgroups below
  const char* inactive_file;
};
constexpr CgroupFiles kV2{"memory.max", "memory.current", "active_file", "inactive_file"};
constexpr CgroupFiles kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file",
                          "total_inactive_file"};

// What one cgroup leaves to us.
std::uint64_t CgroupBytes(const std::string& folder, const CgroupFiles& files,
                          std::uint64_t resident) {
  const std::uint64_t limit = ReadLimit(folder + "/" + files.limit);
  if (limit == kNoLimit) return kNoLimit;
  const std::uint64_t usage = ReadLimit(folder + "/" + files.usage);
  if (usage == kNoLimit) return limit;
  const std::string stat = ReadText(folder + "/memory.stat").value_or("");
  const std::uint64_t given_back = NumberAfter(stat, files.active_file).value_or(0) +
                                   NumberAfter(stat, files.inactive_file).value_or(0) + resident;
  const std::uint64_t taken = usage > given_back ? usage - given_back : 0;
  return limit > taken ? limit - taken : 0;
}

// The smallest over the cgroup `path` below `mount` and its ancestors. In a container the path can
// be the one outside, which is not there; the ancestors that are there still count.
std::uint64_t SmallestOnPath(const std::string& mount, std::string path, const CgroupFiles& files,
                             std::uint64_t resident) {
  std::uint64_t smallest = kNoLimit;
  while (true) {
    smallest = std::min(smallest, CgroupBytes(mount + path, files, resident));
    if (path.empty()) return smallest;
    path.erase(path.rfind('/') == path.npos ? 0 : path.rfind('/'));
  }
}

// Lines of /proc/self/cgroup are "id:controllers:path"; v2 has id 0 and no controllers.
std::uint64_t CgroupLimit(const std::string& root, std::uint64_t resident) {
  const std::string mount = root + "/sys/fs/cgroup";
  std::istringstream lines(ReadText(root + "/proc/self/cgroup").value_or(""));
  std::uint64_t smallest = kNoLimit;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const std::string path = line.substr(second + 1) == "/" ? "" : line.substr(second + 1);
    if (controllers == ",,") {
      smallest = std::min({smallest, SmallestOnPath(mount, path, kV2, resident),
                           SmallestOnPath(mount + "/unified", path, kV2, resident)});
    } else if (controllers.find(",memory,") != controllers.npos) {
      smallest = std::min(smallest, SmallestOnPath(mount + "/memory", path, kV1, resident));
    }
  }
  return smallest;
}

}  // namespace

std::uint64_t ReadMemoryLimit(const std::string& root) {
  const std::string path = root + "/proc/meminfo";
  const std::optional<std::string> text = ReadText(path);
  const auto available_kib = text ? NumberAfter(*text, "MemAvailable") : std::nullopt;
  if (!available_kib) {
    Throw<SystemError>("{}: expected a line 'MemAvailable: N kB', found none", path);
  }
  const std::uint64_t resident = ResidentBytes(root);
  return std::min(*available_kib * 1024 + resident, CgroupLimit(root, resident));
}

std::uint64_t NodeFreeBytes(int os_index, const std::string& root) {
  const std::string path = fmt::format("{}/sys/devices/system/node/node{}/meminfo", root, os_index);
  const std::string text = ReadText(path).value_or("");
  std::uint64_t kib = 0;
  for (const char* key : {"MemFree", "Active(file)", "Inactive(file)"}) {
    kib += NumberAfter(text, key).value_or(0);
  }
  return kib * 1024;
}

}  // namespace tandem
