// Reading of main memory, and which teams are measured.
#include "runtime/measure_host.h"

#include <algorithm>

#include "runtime/read_bandwidth.h"

namespace tandem {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr int kReadTimes = 6;
constexpr int kWeightsTimes = 16;

// Several times what the last level of caches holds, but a small part of the memory.
std::size_t Beyond(const Machine& machine, int times, const Meter& meter) {
  std::size_t cache = 0;
  for (const Cache& c : machine.caches) {
    cache = std::max<std::size_t>(cache, c.bytes * static_cast<std::size_t>(c.count));
  }
  const std::size_t wanted =
      meter.quick() ? 64 * kMiB
                    : std::clamp(static_cast<std::size_t>(times) * cache, 512 * kMiB, 4096 * kMiB);
  return std::clamp<std::size_t>(machine.memory_limit_bytes / 8, 16 * kMiB, wanted);
}

// Best of some reads: what the memory can do, not what else the machine did.
double BestRead(const PlanNode& node, int memory_node, std::size_t bytes, const Meter& meter) {
  ReadBandwidth read({node}, bytes, memory_node);
  double best = 0;
  const int rounds = meter.quick() ? 2 : 3;
  for (int i = 0; i < rounds; ++i) {
    meter.Check();
    best = std::max(best, read.Measure());
  }
  return best;
}

PlanNode FirstCores(const Node& node, int count) {
  return {node.os_index, {node.cores.begin(), node.cores.begin() + count}, 1};
}

// 1, 2, 4, ... and all of them.
std::vector<int> Doubling(int most) {
  std::vector<int> counts;
  for (int n = 1; n < most; n *= 2) counts.push_back(n);
  counts.push_back(most);
  return counts;
}

NodeRates MeasureNode(const Machine& machine, const Node& node, const Meter& meter) {
  NodeRates rates;
  rates.os_index = node.os_index;
  const std::size_t bytes = Beyond(machine, kReadTimes, meter);
  for (const int threads : Doubling(static_cast<int>(node.cores.size()))) {
    const double rate = BestRead(FirstCores(node, threads), node.os_index, bytes, meter);
    rates.read.push_back({threads, rate});
  }
  return rates;
}

std::vector<std::vector<double>> MeasureBetween(const Machine& machine, const HostRates& rates,
                                                const Meter& meter) {
  std::vector<std::vector<double>> between;
  const std::size_t bytes = Beyond(machine, kReadTimes, meter);
  for (std::size_t i = 0; i < machine.nodes.size(); ++i) {
    const Node& from = machine.nodes[i];
    std::vector<double>& row = between.emplace_back();
    for (std::size_t j = 0; j < machine.nodes.size(); ++j) {
      const PlanNode cores = FirstCores(from, static_cast<int>(from.cores.size()));
      row.push_back(i == j ? rates.nodes[i].read.back().bytes_per_s
                           : BestRead(cores, machine.nodes[j].os_index, bytes, meter));
    }
  }
  return between;
}

}  // namespace

std::vector<int> TeamSizes(const Machine& machine) {
  int cores = 0;
  for (const Node& node : machine.nodes) cores += static_cast<int>(node.cores.size());
  std::vector<int> sizes{1, std::max(1, cores / 2), cores};
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

int HostStages(const Machine& machine) {
  constexpr int kTeamStages = 3;  // linear, experts, attention
  return 1 + kTeamStages * static_cast<int>(TeamSizes(machine).size());
}

HostRates MeasureHost(const Machine& machine, Meter& meter) {
  meter.Stage("reading main memory");
  HostRates rates;
  for (const Node& node : machine.nodes) {
    if (!node.cores.empty()) rates.nodes.push_back(MeasureNode(machine, node, meter));
  }
  rates.between = MeasureBetween(machine, rates, meter);
  MeasuredWeights weights(machine, Beyond(machine, kWeightsTimes, meter));
  for (const int threads : TeamSizes(machine)) {
    rates.teams.push_back(MeasureTeam(machine, threads, weights, meter));
  }
  return rates;
}

}  // namespace tandem
