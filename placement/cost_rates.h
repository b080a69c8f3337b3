#pragma once

#include <cstdint>

#include "memory/dtype.h"
#include "placement/machine.h"
#include "placement/plan.h"

namespace tandem {

// Routed experts of one step on one side: how many have rows, and how many rows each.
struct ExpertLoad {
  double experts = 0;
  double rows = 0;  // of one expert
  friend bool operator==(const ExpertLoad&, const ExpertLoad&) = default;
};

// Seconds of the CPU team's operations for the team of a plan: tables for its thread count, between
// those of the teams that were measured, and times what an uneven split over the nodes costs.
class TeamCost {
 public:
  TeamCost(const HostRates& rates, const Plan& plan);

  double Linear(DType type, double n, double k, double rows) const;
  double Experts(DType type, double elements, ExpertLoad load) const;
  double Attention(double heads, double rows, double keys) const;
  double Values(double rows, double width) const;  // norms, rotations: few rows on one thread
  double hand_out_s() const { return hand_out_s_; }
  double read_bytes_per_s() const { return read_; }  // of all nodes that have threads
  int threads() const { return threads_; }

 private:
  template <class F>
  double Between(F&& seconds_of) const;

  const TeamRates* low_ = nullptr;
  const TeamRates* high_ = nullptr;  // low_ if the thread count was measured
  double weight_ = 0;                // of high_, in logarithms of threads
  double scale_ = 1;                 // more threads than measured; uneven nodes
  int threads_ = 1;
  double hand_out_s_ = 0;
  double value_s_ = 0;
  double read_ = 0;
};

// The same for a device.
class DeviceCost {
 public:
  DeviceCost(const DeviceRates& rates, const PlanDevice& device);

  double Linear(DType type, double n, double k, double rows) const;
  double Experts(DType type, double elements, ExpertLoad load) const;
  double Attention(double heads, double rows, double keys) const;
  double Values(double rows, double width) const;
  double Write(double bytes) const;  // pageable, enqueued
  double Read(double bytes) const;   // pageable, and waiting for it and all before it
  const DeviceRates& rates() const { return rates_; }

 private:
  const DeviceRates& rates_;
  double scale_ = 1;  // of kernels: a device on other threads than it was measured with
};

// The rates of a plan's device. TANDEM_CHECKs that the machine has them.
const DeviceRates& RatesOf(const Machine& machine, const PlanDevice& device);

}  // namespace tandem
