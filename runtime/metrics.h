#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tandem {

// What was measured since the last reset. Seconds are wall time of the stepping thread.
struct Metrics {
  std::int64_t steps = 0;
  std::int64_t rows = 0;
  double step_s = 0;
  // The same by phase: steps with one row of each sequence are decode, all others prefill.
  std::int64_t prefill_steps = 0;
  std::int64_t prefill_rows = 0;
  double prefill_s = 0;
  std::int64_t decode_steps = 0;
  std::int64_t decode_rows = 0;
  double decode_s = 0;
  std::int64_t steps_ahead = 0;  // of all: enqueued while the one before ran (Engine::StepGreedy)
  double host_moe_s = 0;         // CPU part of MoE layers
  double device_wait_s = 0;      // waiting for the device (its part, and transfers)
  std::int64_t expert_rows_host = 0;  // (row, expert) pairs computed on each side
  std::int64_t expert_rows_device = 0;
  std::uint64_t host_weight_bytes = 0;  // weights read by CPU kernels
  std::uint64_t device_weight_bytes = 0;
  std::uint64_t streamed_bytes = 0;  // host experts that were copied to the device in prefill
  double stream_s = 0;               // seconds of that
  bool stream_in_place = false;      // from where they lie, without the ring
  // The run-time cache of experts (runtime/expert_cache.h).
  std::int64_t cache_pairs = 0;  // (row, expert) pairs of experts whose place is the host
  std::int64_t cache_hits = 0;   // of these, those that the cache served
  std::uint64_t cache_moved_bytes = 0;
  std::int64_t cache_admissions = 0;
  std::int64_t cache_evictions = 0;
  std::string cache_off;  // why it went off by itself; empty: it did not
  // Of loading.
  std::uint64_t loaded_bytes = 0;
  double load_s = 0;

  void Count(std::size_t step_rows, std::int64_t sequences, double seconds) {
    const auto n = static_cast<std::int64_t>(step_rows);
    const bool decode = n == sequences;
    steps += 1;
    rows += n;
    step_s += seconds;
    (decode ? decode_steps : prefill_steps) += 1;
    (decode ? decode_rows : prefill_rows) += n;
    (decode ? decode_s : prefill_s) += seconds;
  }
};

}  // namespace tandem
