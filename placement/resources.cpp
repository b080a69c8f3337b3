#include "placement/resources.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <tuple>

#include "memory/error.h"
#include "placement/byte_size.h"

namespace tandem {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

std::optional<int> ParseIndex(const std::string& text) {
  int index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  const bool whole = error == std::errc() && end == text.data() + text.size() && index >= 0;
  return whole ? std::optional(index) : std::nullopt;
}

// By index, or by a part of the name.
bool Matches(const Device& device, const std::string& name) {
  const std::optional<int> index = ParseIndex(name);
  return index ? device.index == *index : Lower(device.name).find(Lower(name)) != std::string::npos;
}

const Device& FindDevice(const Machine& machine, const std::string& name) {
  for (const Device& device : machine.devices) {
    if (Matches(device, name)) return device;
  }
  Throw<OpenClError>("device '{}' is not there; {}; 'auto' takes the best, 'none' runs on the CPU",
                     name, FoundDevices(machine));
}

std::vector<std::string> SplitAtCommas(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    std::size_t first = begin;
    std::size_t last = end;
    while (first < last && text[first] == ' ') ++first;
    while (last > first && text[last - 1] == ' ') --last;
    words.push_back(text.substr(first, last - first));
    begin = end + 1;
  }
  return words;
}

double ReadSpeed(const Machine& machine, const Device& device) {
  for (const DeviceRates& rates : machine.rates.devices) {
    if (rates.index == device.index) return rates.read_bytes_per_s;
  }
  return 0;
}

// Fastest first, so that the order in which the drivers list them does not matter.
void SortBySpeed(const Machine& machine, DeviceSet& devices) {
  std::ranges::sort(devices, [&](const Device* a, const Device* b) {
    const auto key = [&](const Device& d) {
      return std::tuple(d.shares_cores, -ReadSpeed(machine, d), ~d.memory_bytes, d.name, d.index);
    };
    return key(*a) < key(*b);
  });
}

bool SameKind(const Machine& machine, const Device& a, const Device& b) {
  return a.name == b.name && a.memory_bytes == b.memory_bytes &&
         a.max_alloc_bytes == b.max_alloc_bytes && a.numa_node == b.numa_node &&
         ReadSpeed(machine, a) == ReadSpeed(machine, b);
}

DeviceChoice AutoDevices(const Machine& machine, const Abilities& abilities,
                         std::vector<std::string>& notes) {
  DeviceChoice choice;
  choice.automatic = true;
  if (machine.devices.empty()) {
    notes.push_back(
        fmt::format("device auto: {}, everything runs on the host", FoundDevices(machine)));
    return choice;
  }
  DeviceSet all;
  for (const Device& device : machine.devices) all.push_back(&device);
  SortBySpeed(machine, all);
  if (!all.front()->shares_cores) {
    std::erase_if(all, [](const Device* d) { return d->shares_cores; });
  }
  for (const Device* device : all) {
    const bool known = std::ranges::any_of(
        choice.sets, [&](const DeviceSet& s) { return SameKind(machine, *s[0], *device); });
    if (!known) choice.sets.push_back({device});
  }
  if (all.front()->shares_cores) choice.sets.resize(1);  // two of them only share once more
  if (abilities.devices > 1 && all.size() > 1 && !all.front()->shares_cores) {
    all.resize(std::min(all.size(), static_cast<std::size_t>(abilities.devices)));
    choice.sets.push_back(all);
  }
  return choice;
}

void CheckThreads(const char* key, std::optional<int> value, int most, const Profile& profile) {
  if (!value || (*value >= 1 && *value <= most)) return;
  Throw<ConfigError>("{}: '{}': expected 1 to {} (the cores that this process may use), found {}",
                     ProfileName(profile), key, most, *value);
}

int CoreCount(const Machine& machine) {
  int cores = 0;
  for (const Node& node : machine.nodes) cores += static_cast<int>(node.cores.size());
  return cores;
}

// Threads that run at once: more would wait for the cgroup's next period.
int CoresWithinQuota(const Machine& machine) {
  const int cores = CoreCount(machine);
  if (machine.cpu_quota <= 0) return cores;
  return std::clamp(static_cast<int>(std::floor(machine.cpu_quota)), 1, cores);
}

// Threads of each node that the profile fixes; -1: it does not.
std::vector<int> FixedThreads(const Machine& machine, const Profile& profile) {
  std::vector<int> fixed(machine.nodes.size(), -1);
  for (const auto& [os_index, threads] : profile.node_threads) {
    const auto node = std::ranges::find(machine.nodes, os_index, &Node::os_index);
    if (node == machine.nodes.end()) {
      Throw<ConfigError>("{}: 'nodes': the machine has no NUMA node {}", ProfileName(profile),
                         os_index);
    }
    const int cores = static_cast<int>(node->cores.size());
    if (threads < 0 || threads > cores) {
      Throw<ConfigError>("{}: threads of node {}: expected 0 to {} (its cores), found {}",
                         ProfileName(profile), os_index, cores, threads);
    }
    fixed[static_cast<std::size_t>(node - machine.nodes.begin())] = threads;
  }
  return fixed;
}

// Gives `threads` cores to the nodes, always to the one that has the fewest threads so far, after
// those that the profile fixes.
std::vector<PlanNode> DealOut(const Machine& machine, const Profile& profile, int threads) {
  const std::vector<int> fixed = FixedThreads(machine, profile);
  std::vector<int> counts(machine.nodes.size());
  for (std::size_t i = 0; i < counts.size(); ++i) {
    counts[i] = std::max(0, fixed[i]);
    threads -= counts[i];
  }
  for (; threads > 0; --threads) {
    std::size_t best = counts.size();
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const bool full = counts[i] == static_cast<int>(machine.nodes[i].cores.size());
      if (full || fixed[i] >= 0) continue;
      if (best == counts.size() || counts[i] < counts[best]) best = i;
    }
    if (best == counts.size()) break;  // every node is fixed or full
    ++counts[best];
  }
  std::vector<PlanNode> nodes;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::vector<int>& cores = machine.nodes[i].cores;
    if (counts[i] == 0) continue;
    nodes.push_back({machine.nodes[i].os_index, {cores.begin(), cores.begin() + counts[i]}, 0});
  }
  if (nodes.empty()) {
    Throw<ConfigError>("{}: no node has a thread for the CPU team", ProfileName(profile));
  }
  return nodes;
}

void CheckBudget(const std::string& key, std::optional<std::uint64_t> wanted, std::uint64_t most,
                 std::string_view owner, const Profile& profile) {
  if (!wanted || *wanted <= most) return;
  Throw<ConfigError>("{}: '{}': {} asked for, {} has {}", ProfileName(profile), key,
                     FormatBytes(*wanted), owner, FormatBytes(most));
}

std::uint64_t WithReserve(std::uint64_t bytes, std::uint64_t reserve) {
  return bytes > reserve ? bytes - reserve : 0;
}

// What the profile says of this device, by index first and then by name.
const MemoryBudget* BudgetOf(const Profile& profile, const Device& device) {
  const auto exact = profile.device_budgets.find(std::to_string(device.index));
  if (exact != profile.device_budgets.end()) return &exact->second;
  for (const auto& [name, budget] : profile.device_budgets) {
    if (Matches(device, name)) return &budget;
  }
  return nullptr;
}

// Threads of the team that the profile asks for; 0: as many as are left.
int AskedThreads(const Profile& profile) {
  int threads = 0;
  for (const auto& [node, count] : profile.node_threads) threads += count;
  return std::max(threads, profile.threads.value_or(0));
}

void CheckBeside(const Profile& profile, int cores, const Device& device) {
  const int team = AskedThreads(profile);
  if (team == 0 || !profile.device_threads) return;
  const int beside = *profile.device_threads;
  if (beside <= ThreadsBeside(cores, team) || team <= ThreadsBeside(cores, beside)) return;
  Throw<ConfigError>(
      "{}: 'threads' {} and 'device_threads' {}: expected at most {} together, {} computes on the "
      "same cores",
      ProfileName(profile), team, beside, cores, device.name);
}

// A core's worth of splits: all of them on a few cores, eight on many. Beside so many threads of
// the team, the cores that are left at the most.
std::vector<int> DeviceThreadCounts(int cores, int team) {
  const int most = ThreadsBeside(cores, std::max(1, team));
  std::vector<int> counts;
  for (int eighth = 1; eighth < 8; ++eighth) {
    const int count = std::clamp((cores * eighth + 4) / 8, 1, most);
    if (counts.empty() || counts.back() != count) counts.push_back(count);
  }
  return counts;
}

}  // namespace

std::string FoundDevices(const Machine& machine) {
  std::string list;
  for (const Device& device : machine.devices) {
    list += fmt::format("{}{}: {} ({})", list.empty() ? "" : ", ", device.index, device.name,
                        device.platform);
  }
  if (!list.empty()) return fmt::format("OpenCL devices found: {}", list);
  if (machine.device_problem.empty()) return "no OpenCL device was found";
  return fmt::format("no OpenCL device was found ({})", machine.device_problem);
}

std::string ProfileName(const Profile& profile) {
  return profile.file.empty() ? "default profile" : profile.file;
}

DeviceSet FindDevices(const Machine& machine, const std::string& names) {
  DeviceSet set;
  if (names == "all") {
    for (const Device& device : machine.devices) set.push_back(&device);
    if (set.empty()) Throw<OpenClError>("device 'all': {}", FoundDevices(machine));
  } else {
    for (const std::string& name : SplitAtCommas(names)) {
      const Device* device = &FindDevice(machine, name);
      if (std::ranges::find(set, device) == set.end()) set.push_back(device);
    }
  }
  SortBySpeed(machine, set);
  return set;
}

DeviceChoice ChooseDevices(const Machine& machine, const Profile& profile,
                           const Abilities& abilities, std::vector<std::string>& notes) {
  if (profile.device == "none") return {};
  if (profile.device == "auto") return AutoDevices(machine, abilities, notes);
  DeviceChoice choice{{FindDevices(machine, profile.device)}, false};
  if (choice.sets[0].size() > static_cast<std::size_t>(std::max(0, abilities.devices))) {
    Throw<OpenClError>(
        "device '{}' are {} devices, and this version runs {}: name as many of them, or 'auto' for "
        "the best. {}",
        profile.device, choice.sets[0].size(), abilities.devices, FoundDevices(machine));
  }
  return choice;
}

std::uint64_t HostBudget(const Machine& machine, const Profile& profile) {
  const std::uint64_t limit = machine.memory_limit_bytes;
  CheckBudget("memory.host", profile.host_memory_bytes, limit, "this process", profile);
  return profile.host_memory_bytes.value_or(limit - limit / 20);
}

std::uint64_t DeviceBudget(const Machine& machine, const Profile& profile, const Device& device) {
  const std::uint64_t memory = device.memory_bytes;
  if (const MemoryBudget* budget = BudgetOf(profile, device)) {
    CheckBudget("memory.devices", budget->bytes, memory, device.name, profile);
    if (budget->bytes) return *budget->bytes;
    if (budget->reserve) return WithReserve(memory, *budget->reserve);
  }
  CheckBudget("memory.device", profile.device_memory_bytes, memory, device.name, profile);
  const std::uint64_t most = memory - memory / 10;
  const std::uint64_t fallback =
      device.shares_cores ? std::min(most, machine.memory_limit_bytes / 4) : most;
  return profile.device_memory_bytes.value_or(fallback);
}

namespace {

// What a node has free. Where the nodes together have less than the process may use, the system
// counts them otherwise (a sandbox that grows with use, memory that can be reclaimed): the rest is
// taken to be spread evenly.
std::uint64_t NodeFree(const Machine& machine, const Node& node) {
  const auto free_of = [](const Node& n) {
    return n.free_bytes > 0 ? n.free_bytes : n.memory_bytes;
  };
  std::uint64_t sum = 0;
  for (const Node& n : machine.nodes) sum += free_of(n);
  const std::uint64_t limit = machine.memory_limit_bytes;
  return free_of(node) + (limit > sum ? (limit - sum) / machine.nodes.size() : 0);
}

}  // namespace

std::uint64_t NodeBudget(const Machine& machine, const Node& node, const Profile& profile) {
  const std::uint64_t free = NodeFree(machine, node);
  const auto found = profile.node_budgets.find(node.os_index);
  if (found == profile.node_budgets.end()) return free;
  const MemoryBudget& budget = found->second;
  if (budget.reserve) return WithReserve(free, *budget.reserve);
  if (!budget.bytes) return free;
  CheckBudget(fmt::format("memory.nodes.{}", node.os_index), budget.bytes, node.memory_bytes,
              fmt::format("node {}", node.os_index), profile);
  return *budget.bytes;
}

int Threads::total() const {
  int sum = 0;
  for (const PlanNode& node : nodes) sum += static_cast<int>(node.cores.size());
  return sum;
}

int ThreadsBeside(int cores, int threads) { return std::max(1, cores - threads); }

Threads ShareCores(const Machine& machine, const Profile& profile, const Device* device) {
  if (device != nullptr && device->shares_cores) {
    std::vector<Threads> splits = CoreSplits(machine, profile, *device);
    return std::move(splits[splits.size() / 2]);
  }
  CheckThreads("threads", profile.threads, CoreCount(machine), profile);
  return {DealOut(machine, profile, profile.threads.value_or(CoresWithinQuota(machine))), 0};
}

std::vector<Threads> CoreSplits(const Machine& machine, const Profile& profile,
                                const Device& device) {
  const int cores = CoreCount(machine);
  CheckThreads("threads", profile.threads, cores, profile);
  CheckThreads("device_threads", profile.device_threads, cores, profile);
  CheckBeside(profile, cores, device);
  const int usable = CoresWithinQuota(machine);
  std::vector<int> counts = DeviceThreadCounts(usable, AskedThreads(profile));
  if (profile.threads) counts = {ThreadsBeside(usable, *profile.threads)};
  if (profile.device_threads) counts = {*profile.device_threads};
  std::vector<Threads> splits;
  for (const int count : counts) {
    const int threads = profile.threads.value_or(ThreadsBeside(usable, count));
    splits.push_back({DealOut(machine, profile, threads), count});
  }
  return splits;
}

}  // namespace tandem
