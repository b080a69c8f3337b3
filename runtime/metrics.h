#pragma once

#include <cstdint>

namespace tandem {

// What was measured since the last reset. Seconds are wall time of the stepping thread.
struct Metrics {
  std::int64_t steps = 0;
  std::int64_t rows = 0;
  double step_s = 0;
  double host_moe_s = 0;      // CPU part of MoE layers
  double device_wait_s = 0;   // waiting for the device (its part, and transfers)
  std::int64_t expert_rows_host = 0;    // (row, expert) pairs computed on each side
  std::int64_t expert_rows_device = 0;
  std::uint64_t host_weight_bytes = 0;  // weights read by CPU kernels
  std::uint64_t device_weight_bytes = 0;
  // Of loading.
  std::uint64_t loaded_bytes = 0;
  double load_s = 0;
};

}  // namespace tandem
