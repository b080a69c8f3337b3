#include "placement/resources.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>

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

const Device* AutoDevice(const Machine& machine, std::vector<std::string>& notes) {
  if (machine.devices.empty()) {
    notes.push_back(
        fmt::format("device auto: {}, everything runs on the host", FoundDevices(machine)));
    return nullptr;
  }
  const auto gpu = std::ranges::find(machine.devices, false, &Device::shares_cores);
  return gpu != machine.devices.end() ? &*gpu : &machine.devices.front();
}

int CoreCount(const Machine& machine) {
  int cores = 0;
  for (const Node& node : machine.nodes) cores += static_cast<int>(node.cores.size());
  return cores;
}

void CheckThreads(const char* key, std::optional<int> value, int most, const Profile& profile) {
  if (!value || (*value >= 1 && *value <= most)) return;
  Throw<ConfigError>("{}: '{}': expected 1 to {} (the cores that this process may use), found {}",
                     ProfileName(profile), key, most, *value);
}

// Gives `threads` cores to the nodes, always to the one that has the fewest threads so far.
std::vector<PlanNode> DealOut(const Machine& machine, int threads) {
  std::vector<PlanNode> nodes;
  for (const Node& node : machine.nodes) nodes.push_back({node.os_index, {}});
  for (; threads > 0; --threads) {
    std::size_t best = machine.nodes.size();
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const bool full = nodes[i].cores.size() == machine.nodes[i].cores.size();
      if (full) continue;
      if (best == nodes.size() || nodes[i].cores.size() < nodes[best].cores.size()) best = i;
    }
    TANDEM_CHECK(best < nodes.size());
    nodes[best].cores.push_back(machine.nodes[best].cores[nodes[best].cores.size()]);
  }
  std::erase_if(nodes, [](const PlanNode& node) { return node.cores.empty(); });
  return nodes;
}

void CheckBudget(const char* key, std::optional<std::uint64_t> wanted, std::uint64_t most,
                 std::string_view owner, const Profile& profile) {
  if (!wanted || *wanted <= most) return;
  Throw<ConfigError>("{}: '{}': {} asked for, {} has {}", ProfileName(profile), key,
                     FormatBytes(*wanted), owner, FormatBytes(most));
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

const Device* ChooseDevice(const Machine& machine, const Profile& profile,
                           std::vector<std::string>& notes) {
  if (profile.device == "none") return nullptr;
  if (profile.device == "auto") return AutoDevice(machine, notes);
  const std::optional<int> index = ParseIndex(profile.device);
  const std::string name = Lower(profile.device);
  for (const Device& device : machine.devices) {
    const bool chosen =
        index ? device.index == *index : Lower(device.name).find(name) != std::string::npos;
    if (chosen) return &device;
  }
  Throw<OpenClError>("device '{}' is not there; {}; 'auto' takes the first, 'none' runs on the CPU",
                     profile.device, FoundDevices(machine));
}

std::uint64_t HostBudget(const Machine& machine, const Profile& profile) {
  const std::uint64_t limit = machine.memory_limit_bytes;
  CheckBudget("memory.host", profile.host_memory_bytes, limit, "this process", profile);
  return profile.host_memory_bytes.value_or(limit - limit / 20);
}

std::uint64_t DeviceBudget(const Machine& machine, const Profile& profile, const Device& device) {
  CheckBudget("memory.device", profile.device_memory_bytes, device.memory_bytes, device.name,
              profile);
  const std::uint64_t most = device.memory_bytes - device.memory_bytes / 10;
  const std::uint64_t fallback =
      device.shares_cores ? std::min(most, machine.memory_limit_bytes / 4) : most;
  return profile.device_memory_bytes.value_or(fallback);
}

int Threads::total() const {
  int sum = 0;
  for (const PlanNode& node : nodes) sum += static_cast<int>(node.cores.size());
  return sum;
}

Threads ShareCores(const Machine& machine, const Profile& profile, const Device* device) {
  const int cores = CoreCount(machine);
  CheckThreads("threads", profile.threads, cores, profile);
  if (device == nullptr || !device->shares_cores) {
    return {DealOut(machine, profile.threads.value_or(cores)), 0};
  }
  CheckThreads("device_threads", profile.device_threads, cores, profile);
  const int half = profile.device_threads ? cores - *profile.device_threads : cores / 2;
  const int threads = profile.threads.value_or(std::max(1, half));
  const int device_threads = profile.device_threads.value_or(std::max(1, cores - threads));
  if (profile.threads && profile.device_threads && threads + device_threads > cores) {
    Throw<ConfigError>(
        "{}: 'threads' {} and 'device_threads' {}: expected at most {} together, {} "
        "computes on the same cores",
        ProfileName(profile), threads, device_threads, cores, device->name);
  }
  return {DealOut(machine, threads), device_threads};
}

}  // namespace tandem
