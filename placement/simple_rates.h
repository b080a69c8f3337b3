#pragma once

#include <vector>

#include "placement/machine.h"

namespace tandem {

// A few plain figures that stand for measured tables: what a data sheet or one benchmark tells.
// Tables follow from them by the roofline: an operation takes its overhead and the longer of
// reading its bytes and doing its arithmetic.

struct SimpleNode {
  double read_bytes_per_s = 0;         // all cores of the node together, from its own memory
  double thread_read_bytes_per_s = 0;  // one thread alone
  double flops_per_core = 0;           // of a large f32 matrix product
};

struct SimpleHost {
  std::vector<SimpleNode> nodes;   // as Machine::nodes
  double cpu_quota = 0;            // as Machine::cpu_quota
  double between_bytes_per_s = 0;  // all cores of one node from another's memory
  double hand_out_s = 0;
  double values_per_core_s = 0;  // values of norms and the like that a core does in a second
};

// What a team of so many threads gets, on the nodes in proportion to their cores. A quota stops
// those above it as long as they run.
struct TeamFigures {
  double working_threads = 0;
  double read_bytes_per_s = 0;
  double flops = 0;
};
TeamFigures FiguresOf(const std::vector<Node>& nodes, const SimpleHost& host, int threads);

HostRates SimpleHostRates(const std::vector<Node>& nodes, const SimpleHost& host);

struct SimpleDevice {
  int index = 0;
  int threads = 0;  // of a device that shares the cores; else 0
  double read_bytes_per_s = 0;
  double flops = 0;
  double pinned_bytes_per_s = 0;    // each way
  double pageable_bytes_per_s = 0;  // each way
  double launch_s = 0;
  double round_trip_s = 0;
};
DeviceRates SimpleDeviceRates(const SimpleDevice& device);

// Figures for hardware of which nothing is known but its size; AssumeRates is made of them, and a
// machine file's gaps are filled with them. Rather low than high.
SimpleNode AssumedNode(const Node& node);
SimpleHost AssumedHost(const Machine& machine);
SimpleDevice AssumedDevice(const Device& device, const Machine& machine);

}  // namespace tandem
