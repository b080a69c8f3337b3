#include <algorithm>

#include "placement/simple_rates.h"

namespace tandem {
namespace {

// CPUs. A thread keeps about ten cache lines in flight, which gives 8 to 12 GB/s on most; a node's
// memory channels give more the more cores the maker put beside them.
constexpr double kThreadRead = 8e9;
constexpr double kNodeReadPerCore = 5e9;
constexpr double kLeastNodeRead = 40e9;  // two channels of DDR4-3200, less refresh and turnarounds
constexpr double kMostNodeRead = 160e9;  // eight channels
constexpr double kBetween = 0.5;         // of the node's own rate, over the link between sockets
constexpr double kFlopsPerCore = 60e9;   // f32 products with 512-bit vectors, as measured here
constexpr double kHandOut = 6e-6;
constexpr double kValuesPerCore = 0.5e9;

// Devices that are no CPU: a card of the middle range on eight lanes of PCIe 4.
constexpr double kDeviceRead = 400e9;
constexpr double kDeviceFlops = 10e12;
constexpr double kPinned = 12e9;
constexpr double kPageable = 6e9;
constexpr double kLaunch = 6e-6;
constexpr double kRoundTrip = 25e-6;

// A CPU device (PoCL) runs on the same cores, by way of compiled kernels and its own threads.
constexpr double kCpuDeviceShare = 0.6;  // of the CPU team's read rate and arithmetic
constexpr double kCpuDeviceLaunch = 30e-6;
constexpr double kCpuDeviceRoundTrip = 100e-6;
constexpr double kCpuDeviceCopy = 6e9;

}  // namespace

SimpleNode AssumedNode(const Node& node) {
  const double by_cores = kNodeReadPerCore * static_cast<double>(node.cores.size());
  return {std::clamp(by_cores, kLeastNodeRead, kMostNodeRead), kThreadRead, kFlopsPerCore};
}

SimpleHost AssumedHost(const Machine& machine) {
  SimpleHost host;
  host.cpu_quota = machine.cpu_quota;
  host.between_bytes_per_s = kBetween * kMostNodeRead;
  for (const Node& node : machine.nodes) {
    host.nodes.push_back(AssumedNode(node));
    host.between_bytes_per_s =
        std::min(host.between_bytes_per_s, kBetween * host.nodes.back().read_bytes_per_s);
  }
  host.hand_out_s = kHandOut;
  host.values_per_core_s = kValuesPerCore;
  return host;
}

SimpleDevice AssumedDevice(const Device& device, const Machine& machine) {
  SimpleDevice simple{device.index, 0,         kDeviceRead, kDeviceFlops,
                      kPinned,      kPageable, kLaunch,     kRoundTrip};
  if (!device.shares_cores) return simple;
  for (const Node& node : machine.nodes) simple.threads += static_cast<int>(node.cores.size());
  const TeamFigures team = FiguresOf(machine.nodes, AssumedHost(machine), simple.threads);
  simple.read_bytes_per_s = kCpuDeviceShare * team.read_bytes_per_s;
  simple.flops = kCpuDeviceShare * team.flops;
  simple.pinned_bytes_per_s = simple.pageable_bytes_per_s = kCpuDeviceCopy;
  simple.launch_s = kCpuDeviceLaunch;
  simple.round_trip_s = kCpuDeviceRoundTrip;
  return simple;
}

DeviceRates AssumeDeviceRates(const Machine& machine, const Device& device) {
  return SimpleDeviceRates(AssumedDevice(device, machine));
}

Rates AssumeRates(const Machine& machine) {
  Rates rates;
  rates.origin = RatesOrigin::kAssumed;
  rates.host = SimpleHostRates(machine.nodes, AssumedHost(machine));
  for (const Device& device : machine.devices) {
    rates.devices.push_back(AssumeDeviceRates(machine, device));
  }
  return rates;
}

}  // namespace tandem
