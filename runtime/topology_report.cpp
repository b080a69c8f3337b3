#include "runtime/topology_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "placement/byte_size.h"
#include "runtime/table.h"

namespace tandem {
namespace {

constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;
constexpr auto kRight = Table::Align::kRight;

std::string Plural(std::size_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::size_t CountCores(const Machine& machine) {
  std::size_t cores = 0;
  for (const Node& node : machine.nodes) cores += node.cores.size();
  return cores;
}

std::string LimitsText(const Machine& machine) {
  std::string text =
      fmt::format("  memory: {}, of which this process may use {}\n",
                  FormatBytes(MemoryBytes(machine)), FormatBytes(machine.memory_limit_bytes));
  if (machine.cpu_quota > 0) {
    text += fmt::format("  CPU quota: {:g} cores' worth of time, of {}\n", machine.cpu_quota,
                        Plural(CountCores(machine), "core"));
  }
  if (machine.memlock_limit_bytes == std::numeric_limits<std::uint64_t>::max()) {
    text += "  locked memory: no limit\n";
  } else if (machine.memlock_limit_bytes > 0) {
    text += fmt::format("  locked memory: at most {}\n", FormatBytes(machine.memlock_limit_bytes));
  }
  return text;
}

std::string CachesText(const Machine& machine) {
  std::vector<std::string> caches;
  for (const Cache& cache : machine.caches) {
    caches.push_back(fmt::format(
        "L{} {} x {}{}", cache.level, FormatBytes(cache.bytes), cache.count,
        cache.cores > 1 ? fmt::format(" ({} cores each)", cache.cores) : std::string()));
  }
  return caches.empty() ? "" : fmt::format("  caches: {}\n", fmt::join(caches, ", "));
}

std::string DeviceText(const Device& device) {
  std::string text =
      fmt::format("device {}: {}, {}", device.index, device.name, FormatBytes(device.memory_bytes));
  text += fmt::format(" (largest buffer {})", FormatBytes(device.max_alloc_bytes));
  if (!device.pci_address.empty()) text += ", PCI " + device.pci_address;
  if (device.compute_units > 0) text += fmt::format(", {}", Plural(device.compute_units, "unit"));
  if (!device.platform.empty()) text += ", " + device.platform;
  if (!device.driver_version.empty()) text += ", driver " + device.driver_version;
  return text + "\n";
}

std::string NodeText(const Machine& machine, const Node& node) {
  std::string text = fmt::format("    NUMA node {}: {}, {} free", node.os_index,
                                 FormatBytes(node.memory_bytes), FormatBytes(node.free_bytes));
  if (node.free_huge_page_bytes > 0) {
    text += fmt::format(", {} in reserved huge pages", FormatBytes(node.free_huge_page_bytes));
  }
  text += fmt::format("\n      {}", Plural(node.cores.size(), "core"));
  if (!node.cores.empty()) {
    text += fmt::format(" with {} each, PUs {}",
                        Plural(static_cast<std::size_t>(node.threads_per_core), "thread"),
                        Ranges(node.cores));
  }
  text += "\n";
  for (const Device& device : machine.devices) {
    if (device.numa_node == node.os_index) text += fmt::format("      {}", DeviceText(device));
  }
  return text;
}

// Those beside no node: CPU devices, and those whose slot is unknown.
std::string OtherDevicesText(const Machine& machine) {
  std::string text;
  for (const Device& device : machine.devices) {
    if (device.numa_node >= 0) continue;
    text += fmt::format("  {}    {}\n", DeviceText(device),
                        device.shares_cores ? "a CPU device: its threads run on the cores above"
                                            : "the NUMA node of its slot is unknown");
  }
  if (!machine.device_problem.empty()) {
    text += fmt::format("  OpenCL: {}\n", machine.device_problem);
  }
  return text;
}

std::string DistancesText(const Machine& machine) {
  if (machine.nodes.size() < 2 || machine.distances.empty()) return "";
  std::vector<Table::Column> columns = {{"distance from node", kRight}};
  for (const Node& node : machine.nodes) {
    columns.push_back({fmt::format("to {}", node.os_index), kRight});
  }
  Table table(columns);
  for (std::size_t i = 0; i < machine.nodes.size(); ++i) {
    std::vector<std::string> row = {std::to_string(machine.nodes[i].os_index)};
    for (const int distance : machine.distances[i]) row.push_back(std::to_string(distance));
    table.Add(std::move(row));
  }
  return fmt::format("\n{}", table.ToText());
}

std::string Gb(double bytes_per_s) { return fmt::format("{:.1f}", bytes_per_s / kGiga); }
std::string Us(double seconds) { return fmt::format("{:.1f}", seconds / kMicro); }

// A column for each thread count that any node has.
std::string ReadText(const HostRates& host) {
  std::set<int> counts;
  for (const NodeRates& node : host.nodes) {
    for (const ReadRate& rate : node.read) counts.insert(rate.threads);
  }
  std::vector<Table::Column> columns = {{"node", kRight}};
  for (const int threads : counts) {
    columns.push_back({Plural(static_cast<std::size_t>(threads), "thread"), kRight});
  }
  Table table(columns);
  for (const NodeRates& node : host.nodes) {
    std::vector<std::string> row = {std::to_string(node.os_index)};
    for (const int threads : counts) {
      const auto found = std::ranges::find(node.read, threads, &ReadRate::threads);
      row.push_back(found == node.read.end() ? "" : Gb(found->bytes_per_s));
    }
    table.Add(std::move(row));
  }
  return fmt::format("\nMemory read by the threads of a node, GB/s\n{}", table.ToText());
}

std::string BetweenText(const HostRates& host) {
  if (host.nodes.size() < 2) return "";
  std::vector<Table::Column> columns = {{"cores of node", kRight}};
  for (const NodeRates& node : host.nodes) {
    columns.push_back({fmt::format("memory of {}", node.os_index), kRight});
  }
  Table table(columns);
  for (std::size_t i = 0; i < host.nodes.size(); ++i) {
    std::vector<std::string> row = {std::to_string(host.nodes[i].os_index)};
    for (const double rate : host.between[i]) row.push_back(rate > 0 ? Gb(rate) : "");
    table.Add(std::move(row));
  }
  return fmt::format("\nMemory read from node to node, all cores, GB/s\n{}", table.ToText());
}

// Bytes of weights per second at the fewest rows, and operations per second at the most, both of
// the largest weights in the table; axes as rates.h has them.
struct KernelRates {
  double bytes_per_s = 0;
  double flops = 0;
  std::int64_t most_rows = 0;
};
KernelRates RatesOf(const RateTable& table, DType type) {
  const auto first = static_cast<double>(table.axes[0].back());
  const auto second = static_cast<double>(table.axes[1].back());
  const std::vector<std::int64_t>& rows = table.axes[2];
  const double weights = first * second;
  const auto seconds = [&](std::int64_t r) {
    return table.Seconds(first, second, static_cast<double>(r));
  };
  KernelRates rates;
  rates.most_rows = rows.back();
  rates.bytes_per_s = weights * BytesPerElement(type) / seconds(rows.front());
  rates.flops = 2 * weights * static_cast<double>(rows.back()) / seconds(rows.back());
  return rates;
}

using Tables = std::map<DType, RateTable>;
void AddKernels(Table& table, const std::string& who, const char* kernel, const Tables& tables) {
  for (const auto& [type, rates] : tables) {
    const KernelRates kernel_rates = RatesOf(rates, type);
    table.Add({who, kernel, std::string(Name(type)), Gb(kernel_rates.bytes_per_s),
               fmt::format("{:.0f}", kernel_rates.flops / kGiga),
               std::to_string(kernel_rates.most_rows)});
  }
}

std::string KernelsText(const Rates& rates) {
  Table table({{"who"},
               {"kernel"},
               {"weights"},
               {"GB/s at 1 row", kRight},
               {"GFLOP/s", kRight},
               {"at rows", kRight}});
  for (const TeamRates& team : rates.host.teams) {
    const std::string who =
        fmt::format("CPU, {}", Plural(static_cast<std::size_t>(team.threads), "thread"));
    AddKernels(table, who, "linear", team.linear);
    AddKernels(table, who, "experts", team.experts);
  }
  for (const DeviceRates& device : rates.devices) {
    const std::string who = fmt::format("device {}", device.index);
    AddKernels(table, who, "linear", device.linear);
    AddKernels(table, who, "experts", device.experts);
  }
  return fmt::format(
      "\nKernels: bytes of weights of one row (decode), arithmetic of many rows (prefill)\n{}",
      table.ToText());
}

std::string TeamsText(const HostRates& host) {
  std::vector<std::string> teams;
  for (const TeamRates& team : host.teams) {
    teams.push_back(fmt::format("{} us to {}", Us(team.hand_out_s),
                                Plural(static_cast<std::size_t>(team.threads), "thread")));
  }
  return fmt::format("\nHanding a job to the CPU's threads and back: {}\n", fmt::join(teams, ", "));
}

std::string DevicesText(const std::vector<DeviceRates>& devices) {
  if (devices.empty()) return "";
  Table table({{"device", kRight},
               {"memory read", kRight},
               {"pinned write", kRight},
               {"pinned read", kRight},
               {"pageable write", kRight},
               {"pageable read", kRight},
               {"launch us", kRight},
               {"round trip us", kRight},
               {"hand-over us", kRight}});
  for (const DeviceRates& d : devices) {
    table.Add({std::to_string(d.index), Gb(d.read_bytes_per_s), Gb(d.pinned_write_bytes_per_s),
               Gb(d.pinned_read_bytes_per_s), Gb(d.pageable_write_bytes_per_s),
               Gb(d.pageable_read_bytes_per_s), Us(d.launch_s), Us(d.round_trip_s),
               Us(d.hand_over_s)});
  }
  return fmt::format("\nDevices: GB/s, and microseconds\n{}", table.ToText());
}

std::string OriginText(const Rates& rates) {
  switch (rates.origin) {
    case RatesOrigin::kMeasured:
      return fmt::format("Rates: measured {}\n", rates.when);
    case RatesOrigin::kFile:
      return "Rates: from a machine file\n";
    case RatesOrigin::kAssumed:
      break;
  }
  return "Rates: at least in part ASSUMED, typical figures that may be far from this machine's; "
         "measure them with `tandem topology --measure`\n";
}

}  // namespace

std::string Ranges(const std::vector<int>& ascending) {
  std::string text;
  for (std::size_t i = 0; i < ascending.size();) {
    std::size_t last = i;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    text += fmt::format("{}{}", i > 0 ? " " : "", ascending[i]);
    if (last > i) text += fmt::format("-{}", ascending[last]);
    i = last + 1;
  }
  return text;
}

std::string TopologyText(const Machine& machine) {
  std::string text = fmt::format("Machine: {}\n", machine.cpu_name);
  text += LimitsText(machine) + CachesText(machine);
  std::set<int> packages;
  for (const Node& node : machine.nodes) packages.insert(node.package);
  for (const int package : packages) {
    text += fmt::format("  package {}\n", package);
    for (const Node& node : machine.nodes) {
      if (node.package == package) text += NodeText(machine, node);
    }
  }
  return text + OtherDevicesText(machine) + DistancesText(machine);
}

std::string RatesText(const Machine& machine, const std::vector<std::string>& why) {
  std::string text = OriginText(machine.rates);
  for (const std::string& reason : why) text += fmt::format("  {}\n", reason);
  const HostRates& host = machine.rates.host;
  return text + ReadText(host) + BetweenText(host) + DevicesText(machine.rates.devices) +
         KernelsText(machine.rates) + TeamsText(host);
}

}  // namespace tandem
