#include "runtime/bench.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <span>

#include "memory/error.h"
#include "runtime/interrupt.h"
#include "runtime/sampler.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// FNV-1a over the bits.
std::uint64_t Hash(std::span<const float> values) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (const float value : values) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    hash = (hash ^ bits) * 0x100000001B3U;
  }
  return hash;
}

// One repetition: its own sequences, freed at the end.
class Repetition {
 public:
  Repetition(Engine& engine, const BenchOptions& options, const std::function<bool()>& interrupted)
      : engine_(engine), options_(options), interrupted_(interrupted), random_(/*seed=*/1) {
    for (std::int64_t i = 0; i < options.sequences; ++i) sequences_.push_back(engine.NewSequence());
  }
  ~Repetition() {
    for (const std::int32_t sequence : sequences_) engine_.FreeSequence(sequence);
  }
  Repetition(const Repetition&) = delete;
  Repetition& operator=(const Repetition&) = delete;

  // Seconds for the prompts of all sequences.
  double Prefill() {
    const auto start = Clock::now();
    for (const std::int32_t sequence : sequences_) {
      Feed(sequence, options_.depth, options_.depth + options_.prompt_tokens);
    }
    return SecondsSince(start);
  }

  // Brings all sequences to their depth.
  void Fill() {
    for (const std::int32_t sequence : sequences_) Feed(sequence, 0, options_.depth);
  }

  // Seconds for gen_tokens steps, each with one token of every sequence. The tokens are random and
  // not sampled: a model of random weights would repeat itself, and choose the same experts.
  double Decode() {
    const auto start = Clock::now();
    for (std::int64_t i = 0; i < options_.gen_tokens; ++i) {
      std::vector<Row> rows;
      for (const std::int32_t sequence : sequences_) {
        rows.push_back(RandomRow(sequence, options_.depth + options_.prompt_tokens + i));
        rows.back().wants_logits = true;
      }
      // As a greedy answer is made, whose tokens are known one by one; the last step's logits are
      // for the hash.
      i + 1 < options_.gen_tokens ? StepGreedy(rows) : Step(rows);
    }
    return SecondsSince(start);
  }

  // Of the last step's logits; not made in every step, because it would count as decoding.
  std::uint64_t hash() const { return Hash(logits_); }

 private:
  // Positions [from, to) of a sequence, in steps of the plan's rows.
  void Feed(std::int32_t sequence, std::int64_t from, std::int64_t to) {
    for (std::int64_t at = from; at < to; at += engine_.plan().max_rows) {
      const std::int64_t end = std::min(at + engine_.plan().max_rows, to);
      std::vector<Row> rows;
      for (std::int64_t p = at; p < end; ++p) rows.push_back(RandomRow(sequence, p));
      rows.back().wants_logits = end == to;
      Step(rows);
    }
  }
  Row RandomRow(std::int32_t sequence, std::int64_t position) {
    const double vocab = static_cast<double>(engine_.config().vocab_size);
    const auto token = static_cast<std::int32_t>(random_.Uniform() * vocab);
    return {sequence, static_cast<std::int32_t>(position), token, false};
  }
  void Step(const std::vector<Row>& rows) {
    if (interrupted_()) ThrowInterrupted();
    logits_ = engine_.Step(rows);
  }

  void StepGreedy(const std::vector<Row>& rows) {
    if (interrupted_()) ThrowInterrupted();
    std::vector<Row> next = rows;  // but for their tokens, which are drawn later
    for (Row& row : next) row = {row.sequence, row.position + 1, 0, true};
    engine_.StepGreedy(rows, next);
  }

  Engine& engine_;
  const BenchOptions& options_;
  const std::function<bool()>& interrupted_;
  Random random_;
  std::vector<std::int32_t> sequences_;
  std::span<const float> logits_;  // of the last step
};

void Repeat(Engine& engine, const BenchOptions& options, const std::function<bool()>& interrupted,
            BenchResult& result) {
  Repetition repetition(engine, options, interrupted);
  const auto sequences = static_cast<double>(options.sequences);
  repetition.Fill();
  if (options.prompt_tokens > 0) {
    engine.ResetMetrics();
    const double seconds = repetition.Prefill();
    const Metrics& metrics = engine.metrics();
    if (metrics.streamed_bytes > 0) {
      result.stream_bytes_per_s.push_back(static_cast<double>(metrics.streamed_bytes) /
                                          metrics.stream_s);
      result.stream_in_place = metrics.stream_in_place;
    }
    result.prefill_tokens_per_s.push_back(sequences * static_cast<double>(options.prompt_tokens) /
                                          seconds);
  }
  if (options.gen_tokens > 0) {
    engine.ResetMetrics();
    const double seconds = repetition.Decode();
    const Metrics& metrics = engine.metrics();
    result.decode_tokens_per_s.push_back(sequences * static_cast<double>(options.gen_tokens) /
                                         seconds);
    result.host_bytes_per_s.push_back(static_cast<double>(metrics.host_weight_bytes) / seconds);
    result.device_bytes_per_s.push_back(static_cast<double>(metrics.device_weight_bytes) / seconds);
    const auto steps = static_cast<double>(options.gen_tokens);
    result.host_moe_ms.push_back(metrics.host_moe_s * 1e3 / steps);
    result.device_wait_ms.push_back(metrics.device_wait_s * 1e3 / steps);
  }
  result.logits_hash = repetition.hash();
}

}  // namespace

BenchResult Bench(Engine& engine, const BenchOptions& options,
                  const std::function<double()>& measure_read,
                  const std::function<bool()>& interrupted) {
  constexpr std::int64_t kWarmUpTokens = 8;
  BenchOptions warm_up = options;
  warm_up.depth = 0;
  warm_up.prompt_tokens = std::min(options.prompt_tokens, engine.plan().max_rows);
  warm_up.gen_tokens = std::min(options.gen_tokens, kWarmUpTokens);
  BenchResult discarded;
  Repeat(engine, warm_up, interrupted, discarded);

  BenchResult result;
  for (int i = 0; i < options.repetitions; ++i) {
    Repeat(engine, options, interrupted, result);
    result.read_bytes_per_s.push_back(measure_read());
    if (result.host_bytes_per_s.empty()) continue;
    result.share_of_read.push_back(result.host_bytes_per_s.back() / result.read_bytes_per_s.back());
  }
  return result;
}

PhaseSeconds BenchOnce(Engine& engine, const BenchOptions& options,
                       const std::function<bool()>& interrupted) {
  Repetition repetition(engine, options, interrupted);
  repetition.Fill();
  PhaseSeconds seconds;
  seconds.prefill = repetition.Prefill();
  seconds.decode = repetition.Decode();
  return seconds;
}

double Median(std::vector<double> values) {
  TANDEM_CHECK(!values.empty());
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  if (values.size() % 2 == 1) return values[middle];
  return (values[middle - 1] + values[middle]) / 2;
}

}  // namespace tandem
