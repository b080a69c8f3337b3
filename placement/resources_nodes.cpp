#include <algorithm>
#include <cmath>
#include <vector>

#include "placement/resources.h"

namespace tandem {
namespace {

// What the node's threads read from its memory; by cores where nothing is known.
double NodeSpeed(const Machine& machine, const PlanNode& node) {
  const auto threads = static_cast<double>(node.cores.size());
  for (const NodeRates& rates : machine.rates.host.nodes) {
    if (rates.os_index != node.os_index || rates.read.empty()) continue;
    const ReadRate* below = &rates.read.front();
    for (const ReadRate& rate : rates.read) {
      if (rate.threads <= static_cast<int>(node.cores.size())) below = &rate;
    }
    const auto next = std::ranges::find_if(
        rates.read, [&](const ReadRate& r) { return r.threads >= static_cast<int>(threads); });
    if (next == rates.read.end() || next->threads <= below->threads) return below->bytes_per_s;
    const double part = (threads - below->threads) / (next->threads - below->threads);
    return below->bytes_per_s + part * (next->bytes_per_s - below->bytes_per_s);
  }
  return threads;
}

std::uint64_t BudgetOfNode(const Machine& machine, const Profile& profile, int os_index) {
  const auto node = std::ranges::find(machine.nodes, os_index, &Node::os_index);
  return node == machine.nodes.end() ? 0 : NodeBudget(machine, *node, profile);
}

bool NearlyEqual(const std::vector<double>& shares) {
  const auto [least, most] = std::ranges::minmax(shares);
  return most - least <= 0.05 / static_cast<double>(shares.size());
}

}  // namespace

std::uint64_t ShareWeights(const Machine& machine, const Profile& profile, std::uint64_t bytes,
                           std::vector<PlanNode>& nodes) {
  const auto all = static_cast<double>(bytes);
  std::vector<double> shares(nodes.size());
  std::vector<bool> full(nodes.size());
  double left = 1;
  for (bool again = true; again;) {  // a node that overflows hands its rest to the others
    again = false;
    double speed = 0;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (!full[i]) speed += NodeSpeed(machine, nodes[i]);
    }
    if (speed <= 0) break;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (!full[i]) shares[i] = left * NodeSpeed(machine, nodes[i]) / speed;
    }
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const auto budget = static_cast<double>(BudgetOfNode(machine, profile, nodes[i].os_index));
      if (full[i] || shares[i] * all <= budget) continue;
      full[i] = again = true;
      shares[i] = budget / all;
      left -= shares[i];
    }
  }
  double sum = 0;
  for (const double share : shares) sum += share;
  const bool limited = std::ranges::find(full, true) != full.end();
  const bool equal = nodes.size() == 1 || (!limited && NearlyEqual(shares));
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].share = equal || sum <= 0 ? 0 : shares[i] / sum;
  }
  return sum < 1 - 1e-9 ? static_cast<std::uint64_t>(std::ceil((1 - sum) * all)) : 0;
}

}  // namespace tandem
