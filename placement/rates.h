#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "memory/dtype.h"

namespace tandem {

// Seconds of an operation over a grid of three sizes; the meaning of the axes is the owner's.
// Between grid points seconds are interpolated linearly in the logarithms of sizes and seconds;
// above an axis' end its last slope goes on, below its beginning the first value holds (an
// operation that is small enough costs its overhead).
struct RateTable {
  std::array<std::vector<std::int64_t>, 3> axes;  // each ascending, positive, not empty
  std::vector<double> seconds;                    // [axes[0]][axes[1]][axes[2]], positive

  bool empty() const { return seconds.empty(); }
  double Seconds(double a, double b, double c) const;
};

// Whether axes are ascending and positive, and there is one positive finite number for each point.
bool IsValid(const RateTable& table);

// Bytes per second that `threads` threads of one node read from that node's memory.
struct ReadRate {
  int threads = 0;
  double bytes_per_s = 0;
};

struct NodeRates {
  int os_index = 0;
  std::vector<ReadRate> read;  // ascending in threads, from 1 to the node's cores
};

// The CPU kernels, run by a team of `threads` threads over all nodes in proportion to their cores,
// on weights in main memory (not in a cache). Activations as fast runs have them.
struct TeamRates {
  int threads = 0;
  // One product y[rows, n] = x[rows, k] w[n, k]^T; axes n, k, rows. By weight format.
  std::map<DType, RateTable> linear;
  // One MoE layer's experts; axes: weights of one expert (3 D F, in elements), experts, rows each.
  std::map<DType, RateTable> experts;
  // MLA attention of one layer from roped queries to head outputs (absorbing W_UK, scores, latent
  // sum, W_UV), R 512, rope 64, nope and v 128, f16 cache; axes heads, rows, keys per row.
  RateTable attention;
  double hand_out_s = 0;  // an empty job for the team and back, with one barrier
  double value_s = 0;     // per value of norms, rotations and the like, the whole team together
};

struct HostRates {
  std::vector<NodeRates> nodes;
  // Bytes per second that all cores of node i read from the memory of node j.
  std::vector<std::vector<double>> between;
  std::vector<TeamRates> teams;  // ascending in threads
};

// One OpenCL device. Seconds of kernels are of launches back to back in one in-order queue.
struct DeviceRates {
  int index = 0;                // of the machine's list of devices
  int threads = 0;              // of a device that shares the cores: how many it ran on; else 0
  double read_bytes_per_s = 0;  // streaming read of device memory by a kernel
  double gemm_flops = 0;        // largest linear product measured
  double pinned_write_bytes_per_s = 0;  // host to device
  double pinned_read_bytes_per_s = 0;
  double pageable_write_bytes_per_s = 0;
  double pageable_read_bytes_per_s = 0;
  double launch_s = 0;      // a tiny kernel, back to back
  double transfer_s = 0;    // a small non-blocking write, back to back: its cost in the queue
  double round_trip_s = 0;  // a tiny kernel, a small read behind it, and waiting for that
  double hand_over_s = 0;   // what a MoE layer of one row loses to it, beyond two launches
  double value_s = 0;       // per value of norms, rotations and the like, beyond launch_s
  std::map<DType, RateTable> linear;  // as TeamRates
  std::map<DType, RateTable> experts;
  RateTable attention;  // as TeamRates: the launches of a step, three or one
};

enum class RatesOrigin : std::uint8_t {
  kAssumed,   // from core counts and data-sheet figures of no machine in particular
  kFile,      // a machine file
  kMeasured,  // on this machine
};

// What a machine does per second. Every number is wall time over work, measured as stated above by
// runtime/measure.h, read from a machine file, or assumed.
struct Rates {
  RatesOrigin origin = RatesOrigin::kAssumed;
  std::string when;  // "2026-11-22 06:40 UTC", of a measurement
  HostRates host;
  std::vector<DeviceRates> devices;
};

}  // namespace tandem
