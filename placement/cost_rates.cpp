#include "placement/cost_rates.h"

#include <algorithm>
#include <cmath>

#include "memory/error.h"

namespace tandem {
namespace {

// A table, and by how much its seconds are to be multiplied.
struct ScaledTable {
  const RateTable& table;
  double factor = 1;

  double Seconds(double a, double b, double c) const { return factor * table.Seconds(a, b, c); }
};

// The table of a format. Only some block formats are measured: another one costs what the one
// nearest in size costs per byte. A machine file may lack formats: the widest one costs the most.
ScaledTable TableOf(const std::map<DType, RateTable>& tables, DType type) {
  TANDEM_CHECK(!tables.empty());
  const auto found = tables.find(type);
  if (found != tables.end()) return {found->second};
  const auto far = [&](DType other) {
    return std::fabs(std::log(BytesPerElement(type) / BytesPerElement(other)));
  };
  const std::pair<const DType, RateTable>* nearest = nullptr;
  for (const auto& entry : tables) {
    if (!IsBlockFormat(entry.first) || !IsBlockFormat(type)) continue;
    if (nearest == nullptr || far(entry.first) < far(nearest->first)) nearest = &entry;
  }
  if (nearest == nullptr) return {tables.begin()->second};
  return {nearest->second, BytesPerElement(type) / BytesPerElement(nearest->first)};
}

// Fewer than one expert on average: a part of the time of one.
double ExpertSeconds(const ScaledTable& table, double elements, ExpertLoad load) {
  if (load.experts <= 0) return 0;
  const double rows = std::max(load.rows, 1.0);
  if (load.experts >= 1) return table.Seconds(elements, load.experts, rows);
  return load.experts * table.Seconds(elements, 1, rows);
}

double ReadRateOf(const NodeRates& node, int threads) {
  if (node.read.empty() || threads <= 0) return 0;
  const ReadRate* before = &node.read.front();
  for (const ReadRate& rate : node.read) {
    if (rate.threads >= threads) {
      if (rate.threads == before->threads) return rate.bytes_per_s;
      const double at = static_cast<double>(threads - before->threads) /
                        static_cast<double>(rate.threads - before->threads);
      return before->bytes_per_s + at * (rate.bytes_per_s - before->bytes_per_s);
    }
    before = &rate;
  }
  return before->bytes_per_s;
}

double NodeRead(const HostRates& rates, const PlanNode& node) {
  const auto found = std::ranges::find(rates.nodes, node.os_index, &NodeRates::os_index);
  TANDEM_CHECK(found != rates.nodes.end());
  return ReadRateOf(*found, static_cast<int>(node.cores.size()));
}

// A step waits for the node that holds most for its bandwidth.
double Imbalance(const HostRates& rates, const Plan& plan, double total) {
  double worst = 1;
  const double equal = 1.0 / static_cast<double>(plan.nodes.size());
  for (const PlanNode& node : plan.nodes) {
    const double share = node.share > 0 ? node.share : equal;
    worst = std::max(worst, share * total / NodeRead(rates, node));
  }
  return worst;
}

}  // namespace

TeamCost::TeamCost(const HostRates& rates, const Plan& plan) {
  TANDEM_CHECK(!rates.teams.empty() && !plan.nodes.empty());
  threads_ = 0;
  for (const PlanNode& node : plan.nodes) {
    threads_ += static_cast<int>(node.cores.size());
    read_ += NodeRead(rates, node);
  }
  if (plan.nodes.size() > 1) scale_ = Imbalance(rates, plan, read_);
  low_ = high_ = &rates.teams.front();
  for (const TeamRates& team : rates.teams) {
    high_ = &team;
    if (team.threads >= threads_) break;
    low_ = &team;
  }
  if (high_->threads == threads_) low_ = high_;
  if (threads_ > high_->threads) {  // more than were measured: as if the rest scaled
    low_ = high_;
    scale_ *= static_cast<double>(high_->threads) / threads_;
  }
  if (low_ != high_) {
    weight_ = std::log(static_cast<double>(threads_) / low_->threads) /
              std::log(static_cast<double>(high_->threads) / low_->threads);
  }
  hand_out_s_ = low_->hand_out_s + weight_ * (high_->hand_out_s - low_->hand_out_s);
  value_s_ = low_->value_s + weight_ * (high_->value_s - low_->value_s);
}

template <class F>
double TeamCost::Between(F&& seconds_of) const {
  const double low = seconds_of(*low_);
  if (low_ == high_ || low == 0) return scale_ * low;
  return scale_ * low * std::pow(seconds_of(*high_) / low, weight_);
}

double TeamCost::Linear(DType type, double n, double k, double rows) const {
  if (n <= 0 || rows <= 0) return 0;
  return Between(
      [&](const TeamRates& team) { return TableOf(team.linear, type).Seconds(n, k, rows); });
}

double TeamCost::Experts(DType type, double elements, ExpertLoad load) const {
  return Between([&](const TeamRates& team) {
    return ExpertSeconds(TableOf(team.experts, type), elements, load);
  });
}

double TeamCost::Attention(double heads, double rows, double keys) const {
  return Between([&](const TeamRates& team) { return team.attention.Seconds(heads, rows, keys); });
}

// HostSide::ForRows: fewer than two rows a thread stay on the calling thread.
double TeamCost::Values(double rows, double width) const {
  if (rows < 2.0 * threads_) return rows * width * value_s_ * threads_;
  return rows * width * value_s_ + hand_out_s_;
}

DeviceCost::DeviceCost(const DeviceRates& rates, const PlanDevice& device) : rates_(rates) {
  if (rates.threads > 0 && device.threads > 0) {
    scale_ = static_cast<double>(rates.threads) / device.threads;
  }
}

double DeviceCost::Linear(DType type, double n, double k, double rows) const {
  return n <= 0 || rows <= 0 ? 0 : scale_ * TableOf(rates_.linear, type).Seconds(n, k, rows);
}

double DeviceCost::Experts(DType type, double elements, ExpertLoad load) const {
  return scale_ * ExpertSeconds(TableOf(rates_.experts, type), elements, load);
}

double DeviceCost::Attention(double heads, double rows, double keys) const {
  return scale_ * rates_.attention.Seconds(heads, rows, keys);
}

double DeviceCost::Values(double rows, double width) const {
  return rates_.launch_s + rows * width * rates_.value_s;
}

double DeviceCost::Write(double bytes) const {
  return rates_.transfer_s + bytes / rates_.pageable_write_bytes_per_s;
}

double DeviceCost::Read(double bytes) const {
  return std::max(0.0, rates_.round_trip_s - rates_.launch_s) +
         bytes / rates_.pageable_read_bytes_per_s;
}

const DeviceRates& RatesOf(const Machine& machine, const PlanDevice& device) {
  const auto found = std::ranges::find(machine.rates.devices, device.index, &DeviceRates::index);
  TANDEM_CHECK(found != machine.rates.devices.end());
  return *found;
}

}  // namespace tandem
