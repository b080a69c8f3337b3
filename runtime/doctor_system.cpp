#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <sstream>

#include "cpu_kernels/isa.h"
#include "placement/byte_size.h"
#include "placement/limits.h"
#include "placement/system_files.h"
#include "runtime/doctor.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMib = std::uint64_t{1} << 20;
constexpr std::uint64_t kGib = std::uint64_t{1} << 30;

std::size_t CountCores(const Machine& machine) {
  std::size_t cores = 0;
  for (const Node& node : machine.nodes) cores += node.cores.size();
  return cores;
}

// "0-3,8" has 5 members.
int CountRanges(const std::string& text) {
  int count = 0;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    int first = 0, last = 0;
    char dash = 0;
    std::istringstream range(part);
    if (!(range >> first)) continue;
    count += range >> dash >> last && dash == '-' && last >= first ? last - first + 1 : 1;
  }
  return count;
}

// The word in brackets: "always [madvise] never".
std::string Chosen(const std::string& text) {
  const std::size_t begin = text.find('['), end = text.find(']');
  return begin < end && end != text.npos ? text.substr(begin + 1, end - begin - 1) : text;
}

// Whether the process may lock as much as it likes (CAP_IPC_LOCK).
bool MayLockAnything(const std::string& root) {
  constexpr int kIpcLock = 14;
  const std::string text = ReadSystemFile(root + "/proc/self/status").value_or("");
  const std::size_t at = text.find("CapEff:");
  if (at == text.npos) return false;
  std::uint64_t capabilities = 0;
  std::istringstream(text.substr(at + 7)) >> std::hex >> capabilities;
  return (capabilities >> kIpcLock & 1) != 0;
}

}  // namespace

Finding CheckMemory(const Machine& machine) {
  Finding f{"memory"};
  f.found = fmt::format("this process may use {}", FormatBytes(machine.memory_limit_bytes));
  if (machine.memory_limit_bytes >= 4 * kGib) return f;
  f.health = machine.memory_limit_bytes < kGib ? Health::kFail : Health::kWarn;
  f.code = ExitCode::kOsLimit;
  f.expected = "4 GiB, for the smallest models";
  f.fix = "end other programs (ps aux --sort -rss | head), or raise the container's limit";
  return f;
}

Finding CheckCgroupMemory(const std::string& root) {
  Finding f{"memory limit of the cgroup"};
  const std::uint64_t limit = ReadCgroupMemoryLimit(root);
  if (limit == std::numeric_limits<std::uint64_t>::max()) {
    f.found = "none";
    return f;
  }
  const std::uint64_t total =
      1024 *
      NumberAfter(ReadSystemFile(root + "/proc/meminfo").value_or(""), "MemTotal").value_or(0);
  f.found = fmt::format("leaves {} of the machine's {}", FormatBytes(limit), FormatBytes(total));
  if (limit >= total / 10 * 9) return f;
  f.health = Health::kWarn;
  f.expected = "the whole memory, unless the limit is meant; plans stay below it";
  f.fix = "docker run --memory ..., or systemctl set-property UNIT MemoryMax=infinity";
  return f;
}

Finding CheckCores(const Machine& machine, const std::string& root) {
  Finding f{"cores"};
  const int online =
      CountRanges(ReadSystemFile(root + "/sys/devices/system/cpu/online").value_or(""));
  int usable = 0;
  for (const Node& node : machine.nodes) {
    usable += static_cast<int>(node.cores.size()) * node.threads_per_core;
  }
  f.found = fmt::format("{} cores on {} NUMA node{}", CountCores(machine), machine.nodes.size(),
                        machine.nodes.size() == 1 ? "" : "s");
  if (usable >= online) return f;
  f.health = Health::kWarn;
  f.found += fmt::format("; {} of {} hardware threads may be used", usable, online);
  f.expected = "all of them, unless the cpuset is meant";
  f.fix =
      "taskset -p $$ shows the binding; docker run --cpuset-cpus, numactl, or AllowedCPUs= of "
      "the unit set it";
  return f;
}

Finding CheckCpuQuota(const Machine& machine) {
  Finding f{"CPU quota of the cgroup"};
  if (machine.cpu_quota <= 0) {
    f.found = "none";
    return f;
  }
  const auto cores = static_cast<double>(CountCores(machine));
  f.found = fmt::format("{:g} cores' worth of time for {:g} cores", machine.cpu_quota, cores);
  if (machine.cpu_quota >= cores) return f;
  f.health = Health::kWarn;
  f.expected = "none: threads above the quota are stopped for the rest of each period";
  f.fix = fmt::format("docker run --cpus={:g}, or systemctl set-property UNIT CPUQuota=", cores);
  return f;
}

Finding CheckHugePages(const std::string& root) {
  Finding f{"transparent huge pages"};
  const std::string path = "/sys/kernel/mm/transparent_hugepage/enabled";
  const auto text = ReadSystemWord(root + path);
  f.found = text ? Chosen(*text) : "the kernel has none";
  if (f.found == "always" || f.found == "madvise") return f;
  f.health = Health::kWarn;
  f.expected = "madvise or always: with 4 KiB pages reading weights is slower";
  if (text) f.fix = "echo madvise | sudo tee " + path;
  return f;
}

Finding CheckReservedPages(const Machine& machine) {
  Finding f{"reserved huge pages"};
  std::uint64_t idle = 0;
  for (const Node& node : machine.nodes) idle += node.free_huge_page_bytes;
  f.found = fmt::format("{} reserved and unused", FormatBytes(idle));
  if (idle <= machine.memory_limit_bytes / 20) return f;
  f.health = Health::kWarn;
  f.expected = "few: Tandem takes transparent huge pages, and these are lost to it";
  f.fix = "echo 0 | sudo tee /proc/sys/vm/nr_hugepages";
  return f;
}

Finding CheckMemlock(const Machine& machine, const std::string& root) {
  constexpr std::uint64_t kEnough = 64 * kMib;
  Finding f{"locked memory"};
  const std::uint64_t limit = machine.memlock_limit_bytes;
  const bool unlimited = limit == std::numeric_limits<std::uint64_t>::max();
  f.found = unlimited ? "no limit" : fmt::format("at most {}", FormatBytes(limit));
  if (unlimited || limit >= kEnough) return f;
  if (MayLockAnything(root)) {
    f.found += ", which does not bind this process (CAP_IPC_LOCK)";
    return f;
  }
  f.health = Health::kWarn;
  f.expected = "64 MiB or more: some drivers pin the buffers of their transfers";
  f.fix =
      "ulimit -l unlimited; for good: '* - memlock unlimited' in /etc/security/limits.conf, or "
      "LimitMEMLOCK=infinity in the unit";
  return f;
}

Finding CheckNumaBalancing(const Machine& machine, const std::string& root) {
  Finding f{"NUMA balancing"};
  const auto mode = ReadSystemNumber(root + "/proc/sys/kernel/numa_balancing");
  f.found = !mode ? "not in this kernel" : *mode == 0 ? "off" : "on";
  if (machine.nodes.size() < 2) f.found += ", one node only";
  if (!mode || *mode == 0 || machine.nodes.size() < 2) return f;
  f.health = Health::kWarn;
  f.expected = "off: weights are bound to their nodes, and the kernel's sampling costs page faults";
  f.fix = "sudo sysctl kernel.numa_balancing=0";
  return f;
}

Finding CheckGovernor(const std::string& root) {
  Finding f{"CPU frequency governor"};
  std::map<std::string, int> governors;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(root + "/sys/devices/system/cpu", none)) {
    const auto governor = ReadSystemWord(entry.path() / "cpufreq" / "scaling_governor");
    if (governor) ++governors[*governor];
  }
  std::vector<std::string> parts;
  parts.reserve(governors.size());
  for (const auto& [name, count] : governors) {
    parts.push_back(fmt::format("{} on {} CPUs", name, count));
  }
  f.found = parts.empty() ? "not visible here (a virtual machine decides outside)"
                          : fmt::format("{}", fmt::join(parts, ", "));
  if (governors.empty() || (governors.size() == 1 && governors.contains("performance"))) return f;
  f.health = Health::kWarn;
  f.expected = "performance: others lower the clock between the bursts of decode";
  f.fix = "sudo cpupower frequency-set -g performance";
  return f;
}

Finding CheckSwap(const std::string& root) {
  Finding f{"swap"};
  const std::string text = ReadSystemFile(root + "/proc/meminfo").value_or("");
  const std::uint64_t total = 1024 * NumberAfter(text, "SwapTotal").value_or(0);
  const std::uint64_t unused = 1024 * NumberAfter(text, "SwapFree").value_or(0);
  const std::uint64_t used = total - std::min(total, unused);
  f.found =
      total == 0 ? "none" : fmt::format("{} of {} in use", FormatBytes(used), FormatBytes(total));
  if (used < 256 * kMib) return f;
  f.health = Health::kWarn;
  f.expected = "hardly any in use: weights that are swapped out stall every step";
  f.fix = "sudo sysctl vm.swappiness=1; sudo swapoff -a && sudo swapon -a empties it";
  return f;
}

Finding CheckInstructionSets() {
  Finding f{"instruction sets"};
  std::vector<std::string> names;
  for (const cpu::Isa isa : cpu::SupportedIsas()) names.emplace_back(cpu::Name(isa));
  try {
    const std::string chosen(cpu::Name(cpu::ChooseIsa()));
    f.found = fmt::format("{} chosen of {}", chosen, fmt::join(names, ", "));
    if (chosen == names.back() && names.size() > 1) return f;
    f.health = Health::kWarn;
    f.expected = names.size() > 1 ? names.back() : "avx2 at least: the kernels of ref are slow";
    if (names.size() > 1) f.fix = "unset TANDEM_FORCE_ISA";
  } catch (const Error& error) {
    f.health = Health::kFail;
    f.code = error.code();
    f.found = error.what();
    f.expected = fmt::format("one of {}", fmt::join(names, ", "));
    f.fix = "unset TANDEM_FORCE_ISA";
  }
  return f;
}

}  // namespace tandem
