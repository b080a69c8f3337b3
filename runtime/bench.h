#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace tandem {

struct BenchOptions {
  std::int64_t depth = 0;  // tokens that are in the cache before anything is timed
  std::int64_t prompt_tokens = 512;
  std::int64_t gen_tokens = 64;
  std::int64_t sequences = 1;
  int repetitions = 5;
};

// What the repetitions gave, in order.
struct BenchResult {
  std::vector<double> prefill_tokens_per_s;
  std::vector<double> decode_tokens_per_s;  // of all sequences together
  std::vector<double> host_bytes_per_s;     // weights that CPU kernels read in decode
  std::vector<double> device_bytes_per_s;   // and device kernels
  std::vector<double> read_bytes_per_s;     // the machine's, measured after each repetition
  std::vector<double> share_of_read;        // host_bytes_per_s over the read right after it
  std::vector<double> host_moe_ms;          // per decode step: the CPU's part of the MoE layers
  bool stream_in_place = false;            // and from where they lie, without the ring
  std::vector<double> stream_bytes_per_s;   // host experts copied to the device in prefill
  std::vector<double> device_wait_ms;       // per decode step: waiting for the device
  std::uint64_t logits_hash = 0;            // of the last step: the same work gives the same hash
};

// Prefills and decodes random tokens (the same in every repetition), after one short warm-up.
// `measure_read` gives bytes per second and runs between the repetitions, so that a machine that is
// shared with others is judged by the same minutes. Throws Error once `interrupted` says so.
BenchResult Bench(Engine& engine, const BenchOptions& options,
                  const std::function<double()>& measure_read,
                  const std::function<bool()>& interrupted);

// One repetition: seconds of all prompts, and of all decode steps.
struct PhaseSeconds {
  double prefill = 0;
  double decode = 0;
};
PhaseSeconds BenchOnce(Engine& engine, const BenchOptions& options,
                       const std::function<bool()>& interrupted);

// The middle value; of an even count the mean of the middle two. `values` is not empty.
double Median(std::vector<double> values);

}  // namespace tandem
