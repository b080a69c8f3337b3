#include "placement/limits.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>

#include "memory/error.h"
#include "placement/system_files.h"

namespace tandem {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

// Absent file, "max" and the huge number that v1 writes for "no limit" are all no limit.
std::uint64_t ReadLimit(const std::string& path) {
  const std::optional<std::string> text = ReadSystemFile(path);
  std::uint64_t value = 0;
  if (!text || !(std::istringstream(*text) >> value)) return kNoLimit;
  return value < (std::uint64_t{1} << 60) ? value : kNoLimit;
}

std::uint64_t ResidentBytes(const std::string& root) {
  const std::optional<std::string> text = ReadSystemFile(root + "/proc/self/statm");
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
  const std::string stat = ReadSystemFile(folder + "/memory.stat").value_or("");
  const std::uint64_t given_back = NumberAfter(stat, files.active_file).value_or(0) +
                                   NumberAfter(stat, files.inactive_file).value_or(0) + resident;
  const std::uint64_t taken = usage > given_back ? usage - given_back : 0;
  return limit > taken ? limit - taken : 0;
}

// The quota of one cgroup in cores: v2 has "max 100000" or "150000 100000" in one file, v1 two
// files and -1 for none.
double QuotaOf(const std::string& folder, bool v2) {
  double quota_us = 0, period_us = 0;
  if (v2) {
    std::istringstream(ReadSystemFile(folder + "/cpu.max").value_or("")) >> quota_us >> period_us;
  } else {
    const auto number = [&](const char* name) {
      return static_cast<double>(ReadSystemNumber(folder + "/" + name).value_or(0));
    };
    quota_us = number("cpu.cfs_quota_us");
    period_us = number("cpu.cfs_period_us");
  }
  return quota_us > 0 && period_us > 0 ? quota_us / period_us : 0;
}

// Calls visit(folder, v2) for the cgroup `path` below `mount` and its ancestors. In a container the
// path can be the one outside, which is not there; the ancestors that are there still count.
using Visit = std::function<void(const std::string& folder, bool v2)>;
void VisitPath(const std::string& mount, std::string path, bool v2, const Visit& visit) {
  visit(mount + path, v2);
  while (!path.empty()) {
    path.erase(path.rfind('/') == path.npos ? 0 : path.rfind('/'));
    visit(mount + path, v2);
  }
}

// Every cgroup with that controller that we are in. Lines of /proc/self/cgroup are
// "id:controllers:path"; v2 has id 0 and no controllers.
void VisitCgroups(const std::string& root, const std::string& controller, const Visit& visit) {
  const std::string mount = root + "/sys/fs/cgroup";
  const std::string wanted = fmt::format(",{},", controller);
  std::istringstream lines(ReadSystemFile(root + "/proc/self/cgroup").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const std::string path = line.substr(second + 1) == "/" ? "" : line.substr(second + 1);
    if (controllers == ",,") {
      VisitPath(mount, path, true, visit);
      VisitPath(mount + "/unified", path, true, visit);
    } else if (controllers.find(wanted) != controllers.npos) {
      VisitPath(fmt::format("{}/{}", mount, controller), path, false, visit);
    }
  }
}

std::uint64_t CgroupLimit(const std::string& root, std::uint64_t resident) {
  std::uint64_t smallest = kNoLimit;
  VisitCgroups(root, "memory", [&](const std::string& folder, bool v2) {
    smallest = std::min(smallest, CgroupBytes(folder, v2 ? kV2 : kV1, resident));
  });
  return smallest;
}

std::string NodeFolder(int os_index, const std::string& root) {
  return fmt::format("{}/sys/devices/system/node/node{}", root, os_index);
}

}  // namespace

std::uint64_t ReadMemoryLimit(const std::string& root) {
  const std::string path = root + "/proc/meminfo";
  const std::optional<std::string> text = ReadSystemFile(path);
  const auto available_kib = text ? NumberAfter(*text, "MemAvailable") : std::nullopt;
  if (!available_kib) {
    Throw<SystemError>("{}: expected a line 'MemAvailable: N kB', found none", path);
  }
  const std::uint64_t resident = ResidentBytes(root);
  return std::min(*available_kib * 1024 + resident, CgroupLimit(root, resident));
}

std::uint64_t ReadMemoryTotal(const std::string& root) {
  const std::string text = ReadSystemFile(root + "/proc/meminfo").value_or("");
  return NumberAfter(text, "MemTotal").value_or(0) * 1024;
}

std::uint64_t ReadCgroupMemoryLimit(const std::string& root) {
  return CgroupLimit(root, ResidentBytes(root));
}

double ReadCpuQuota(const std::string& root) {
  double least = 0;
  VisitCgroups(root, "cpu", [&](const std::string& folder, bool v2) {
    const double quota = QuotaOf(folder, v2);
    if (quota > 0 && (least == 0 || quota < least)) least = quota;
  });
  return least;
}

std::uint64_t ReadMemlockLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return 0;
  return limit.rlim_cur == RLIM_INFINITY ? kNoLimit : limit.rlim_cur;
}

std::uint64_t NodeFreeBytes(int os_index, const std::string& root) {
  const std::string text = ReadSystemFile(NodeFolder(os_index, root) + "/meminfo").value_or("");
  std::uint64_t kib = 0;
  for (const char* key : {"MemFree", "Active(file)", "Inactive(file)"}) {
    kib += NumberAfter(text, key).value_or(0);
  }
  return kib * 1024;
}

std::uint64_t NodeFreeHugePageBytes(int os_index, const std::string& root) {
  constexpr std::string_view kPrefix = "hugepages-";
  std::uint64_t bytes = 0;
  // hugepages-2048kB/free_hugepages, hugepages-1048576kB/free_hugepages, ...
  std::error_code none;
  const std::filesystem::path folder = NodeFolder(os_index, root) + "/hugepages";
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    std::uint64_t kib = 0;
    if (!name.starts_with(kPrefix)) continue;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), kib);
    const std::int64_t pages = ReadSystemNumber(entry.path() / "free_hugepages").value_or(0);
    bytes += kib * 1024 * static_cast<std::uint64_t>(std::max<std::int64_t>(0, pages));
  }
  return bytes;
}

std::vector<std::vector<int>> ReadDistances(const std::vector<int>& os_indices,
                                            const std::string& root) {
  std::vector<std::vector<int>> distances;
  for (const int from : os_indices) {
    // A node's row has a column for every node that is online, in ascending order.
    std::istringstream row(ReadSystemFile(NodeFolder(from, root) + "/distance").value_or(""));
    std::vector<int>& to = distances.emplace_back();
    for (int value = 0; row >> value && value > 0;) to.push_back(value);
    if (to.size() != os_indices.size()) return {};
  }
  return distances;
}

int PciNumaNode(const std::string& address, const std::string& root) {
  // The address comes from a driver: only what is one becomes part of a path.
  const auto is_part = [](unsigned char c) {
    return std::isxdigit(c) != 0 || c == ':' || c == '.';
  };
  if (address.find(':') == address.npos || !std::ranges::all_of(address, is_part)) return -1;
  std::string name = address;
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const auto node = ReadSystemNumber(root + "/sys/bus/pci/devices/" + name + "/numa_node");
  return node && *node >= 0 && *node < 4096 ? static_cast<int>(*node) : -1;
}

}  // namespace tandem
