#include "placement/simple_rates.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <utility>

namespace tandem {
namespace {

// MLA as RateTable axes have it: latent, roped, and per-head widths.
constexpr double kLatent = 512;
constexpr double kRope = 64;
constexpr double kHeadDim = 128;
constexpr double kCacheBytes = 2;   // f16
constexpr double kWeightBytes = 2;  // of W_UK and W_UV, bf16
constexpr double kAttentionLaunches = 4;

// Seconds of moving bytes and of arithmetic run side by side; the overhead comes before both.
struct Roofline {
  double overhead_s = 0;
  double bytes_per_s = 0;
  double flops = 0;

  double Seconds(double bytes, double operations) const {
    return overhead_s + std::max(bytes / bytes_per_s, operations / flops);
  }
};

// Every 4th power of two: between points a table is interpolated, and the one kink of a roofline is
// rounded off a little.
std::vector<std::int64_t> Axis(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> axis;
  for (std::int64_t x = first; x <= last; x *= 4) axis.push_back(x);
  return axis;
}

template <class F>
RateTable Fill(std::array<std::vector<std::int64_t>, 3> axes, F&& seconds_of) {
  RateTable table{std::move(axes), {}};
  for (const std::int64_t a : table.axes[0]) {
    for (const std::int64_t b : table.axes[1]) {
      for (const std::int64_t c : table.axes[2]) {
        table.seconds.push_back(
            seconds_of(static_cast<double>(a), static_cast<double>(b), static_cast<double>(c)));
      }
    }
  }
  return table;
}

RateTable Linear(const Roofline& roof, DType type) {
  const double bytes = BytesPerElement(type);
  return Fill({Axis(128, 131072), Axis(128, 32768), Axis(1, 4096)},
              [&](double n, double k, double rows) {
                return roof.Seconds(n * k * bytes, 2 * n * k * rows);
              });
}

RateTable Experts(const Roofline& roof, DType type) {
  const double bytes = BytesPerElement(type);
  return Fill({Axis(1 << 12, 1 << 26), Axis(1, 256), Axis(1, 1024)},
              [&](double weights, double experts, double rows) {
                return roof.Seconds(weights * experts * bytes, 2 * weights * experts * rows);
              });
}

// Queries into the latent space and sums out of it (W_UK, W_UV), scores over latent and roped key,
// and the weighted sum of latents. The cache is read once for all rows and heads.
RateTable Attention(const Roofline& roof) {
  return Fill(
      {Axis(1, 256), Axis(1, 4096), Axis(16, 262144)}, [&](double heads, double rows, double keys) {
        const double weights = 2 * heads * kHeadDim * kLatent;
        const double operations = 2 * rows * (keys * heads * (kLatent + kRope + kLatent) + weights);
        const double bytes = keys * (kLatent + kRope) * kCacheBytes;
        return roof.Seconds(bytes + weights * kWeightBytes, operations);
      });
}

std::map<DType, RateTable> EachFormat(const Roofline& roof,
                                      RateTable (*table)(const Roofline&, DType)) {
  std::map<DType, RateTable> tables;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto type = static_cast<DType>(i);
    tables[type] = table(roof, type);
  }
  return tables;
}

double ReadRateOf(const SimpleNode& node, double threads) {
  return std::min(node.read_bytes_per_s, threads * node.thread_read_bytes_per_s);
}

NodeRates ReadsOf(const Node& node, const SimpleNode& simple) {
  const int cores = static_cast<int>(node.cores.size());
  NodeRates rates{node.os_index, {}};
  for (int threads = 1; threads < cores; threads *= 2) {
    rates.read.push_back({threads, ReadRateOf(simple, threads)});
  }
  if (cores > 0) rates.read.push_back({cores, ReadRateOf(simple, cores)});
  return rates;
}

int CountCores(const std::vector<Node>& nodes) {
  int cores = 0;
  for (const Node& node : nodes) cores += static_cast<int>(node.cores.size());
  return cores;
}

TeamRates Team(const std::vector<Node>& nodes, const SimpleHost& host, int threads) {
  const TeamFigures figures = FiguresOf(nodes, host, threads);
  const Roofline roof{host.hand_out_s, figures.read_bytes_per_s, figures.flops};
  TeamRates team;
  team.threads = threads;
  team.linear = EachFormat(roof, Linear);
  team.experts = EachFormat(roof, Experts);
  team.attention = Attention(roof);
  team.hand_out_s = host.hand_out_s;
  team.value_s = 1 / (figures.working_threads * host.values_per_core_s);
  return team;
}

// What all cores of a node read from its own memory or from another's; 0 where it has no cores.
std::vector<std::vector<double>> Between(const std::vector<Node>& nodes, const SimpleHost& host) {
  std::vector<std::vector<double>> between;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const double own = ReadRateOf(host.nodes[i], static_cast<double>(nodes[i].cores.size()));
    between.emplace_back(nodes.size(), std::min(own, host.between_bytes_per_s));
    between.back()[i] = own;
  }
  return between;
}

}  // namespace

TeamFigures FiguresOf(const std::vector<Node>& nodes, const SimpleHost& host, int threads) {
  const double most = host.cpu_quota > 0 ? host.cpu_quota : threads;
  TeamFigures figures{std::min<double>(threads, most), 0, 0};
  const double share = figures.working_threads / CountCores(nodes);
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const double here = share * static_cast<double>(nodes[i].cores.size());
    figures.read_bytes_per_s += ReadRateOf(host.nodes[i], here);
    figures.flops += here * host.nodes[i].flops_per_core;
  }
  return figures;
}

HostRates SimpleHostRates(const std::vector<Node>& nodes, const SimpleHost& host) {
  HostRates rates;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    rates.nodes.push_back(ReadsOf(nodes[i], host.nodes[i]));
  }
  rates.between = Between(nodes, host);
  const int cores = CountCores(nodes);
  for (const int threads : {1, cores / 2, cores}) {
    const bool more = rates.teams.empty() || threads > rates.teams.back().threads;
    if (threads > 0 && more) rates.teams.push_back(Team(nodes, host, threads));
  }
  return rates;
}

DeviceRates SimpleDeviceRates(const SimpleDevice& device) {
  const Roofline roof{device.launch_s, device.read_bytes_per_s, device.flops};
  constexpr double kValueBytes = 8;  // one f32 read, one written
  DeviceRates rates;
  rates.index = device.index;
  rates.threads = device.threads;
  rates.read_bytes_per_s = device.read_bytes_per_s;
  rates.gemm_flops = device.flops;
  rates.pinned_write_bytes_per_s = rates.pinned_read_bytes_per_s = device.pinned_bytes_per_s;
  rates.pageable_write_bytes_per_s = rates.pageable_read_bytes_per_s = device.pageable_bytes_per_s;
  rates.launch_s = rates.transfer_s = device.launch_s;
  rates.round_trip_s = device.round_trip_s;
  rates.hand_over_s = device.round_trip_s;
  rates.value_s = kValueBytes / device.read_bytes_per_s;
  rates.linear = EachFormat(roof, Linear);
  rates.experts = EachFormat(roof, Experts);
  rates.attention =
      Attention({kAttentionLaunches * device.launch_s, device.read_bytes_per_s, device.flops});
  return rates;
}

}  // namespace tandem
