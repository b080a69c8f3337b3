#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/tensor_source.h"
#include "placement/plan.h"
#include "runtime/deferral.h"
#include "runtime/metrics.h"
#include "runtime/progress.h"

namespace tandem {

// One row of a step: one token of one sequence.
struct Row {
  std::int32_t sequence = 0;
  std::int32_t position = 0;
  std::int32_t token = 0;
  bool wants_logits = false;
};

// Sees intermediate values of a step (`tandem logits --dump`, tests). T rows, in the step's order.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  // index 0: the embedding; 1..L-1: after each layer; L: after the last layer and the final norm.
  virtual void OnHidden(int index, std::span<const float> hidden /* [T, D] */) = 0;
  // ids and weights [T, K] of a MoE layer.
  virtual void OnRouter(int layer, std::span<const std::int32_t> ids,
                        std::span<const float> weights) = 0;
};

// Takes logits [n, V] of the next n rows that want them; valid during the call.
using LogitsSink = std::function<void(std::span<const float>)>;

// Memory that an engine holds.
struct DeviceBytes {
  std::uint64_t weights = 0;
  std::uint64_t kv = 0;
  std::uint64_t scratch = 0;
  std::uint64_t all() const { return weights + kv + scratch; }
};
struct EngineBytes {
  std::uint64_t host_weights = 0;
  std::uint64_t host_kv = 0;
  std::uint64_t host_scratch = 0;
  std::vector<DeviceBytes> devices;  // as in the plan
};

// Runs a plan: loads the weights to where it says and computes steps. The one public API.
// Steps come from one thread; several engines may live in one process.
class Engine {
 public:
  // Loads. Throws what loading throws; a plan that does not fit was refused by MakePlan.
  Engine(Model model, Plan plan, ProgressSink* progress = nullptr);
  ~Engine();
  Engine(Engine&&) noexcept;

  // A new, empty sequence. Throws UsageError if plan.max_sequences are in use.
  std::int32_t NewSequence();
  // Gives its KV blocks back.
  void FreeSequence(std::int32_t sequence);
  // A new sequence that shares the first `tokens` tokens of another: whole blocks by reference
  // count, the last partial one copied.
  std::int32_t Fork(std::int32_t sequence, std::int64_t tokens);
  // Forgets all tokens from position `tokens` on.
  void Truncate(std::int32_t sequence, std::int64_t tokens);
  std::int64_t Length(std::int32_t sequence) const;
  // Tokens that the free KV blocks can still take in the worst case for one sequence.
  std::int64_t FreeTokens() const;

  // One step: any rows of any sequences, at most plan.max_rows. Positions of a sequence must
  // continue its length, in order. Returns logits [rows that want them, V], in row order, valid
  // until the next step. Throws UsageError for an empty step, an unknown sequence, a position or
  // token id out of range, or a full KV cache, before anything has changed.
  // At most LogitRows(plan) rows may want logits (placement/scratch.h), unless a sink takes them,
  // some rows at a time in row order; then none are returned.
  std::span<const float> Step(std::span<const Row> rows, StepObserver* observer = nullptr,
                              const LogitsSink* sink = nullptr);

  // The same, but gives the id of the largest logit (the lowest one on a tie) of each row that
  // wants logits: where the head is on a device, its logits stay there. Throws Error (70) for
  // logits that are not finite.
  // `next`: the rows that the caller expects to step after these, whose tokens it does not know yet
  // (they are not looked at). Where a device runs all of the model but experts and the rows are few
  // (StepFeedShape::kMostRows), that step's first launches are enqueued while this one runs.
  // Nothing else changes: the step counts when it is made, another one may be made in its place,
  // and sequences may change before, for the price of a few layers on the device.
  std::span<const std::int32_t> StepGreedy(std::span<const Row> rows,
                                           std::span<const Row> next = {});
  // For a caller who makes no step for now: a device would wait for its rows for about a second.
  void ExpectNothing();

  // Goes over to another plan for the same model without loading what stays where it is: experts
  // and roles move, threads, chunk, KV cache and NUMA shares change. No sequence may exist
  // (UsageError); an open device keeps its place and its threads, or is closed. What comes is read
  // from the checkpoint again, after what leaves was freed.
  // If that fails (memory, a cancel), the engine loads its old plan again and throws the failure;
  // if that fails too, this throws why, and every later call throws that the engine is gone.
  void Apply(const Plan& next, ProgressSink* progress = nullptr);

  // After a DeviceLostError: opens the devices again and puts there what the plan wants there; what
  // the host holds stays. All sequences are gone. Throws DeviceLostError where a device hangs or
  // does not come back; then every later call throws that the engine is gone.
  void Recover();

  const Config& config() const;
  const Plan& plan() const;
  const Model& model() const;
  EngineBytes bytes() const;
  const Metrics& metrics() const;
  void ResetMetrics();
  // Whether steps may be enqueued ahead, so that Metrics::steps_ahead says something.
  bool steps_ahead() const;
  // What deferral does to the logits, of plans with it: measured, and printed on standard error,
  // when the engine is made or goes over to such a plan. Null for others.
  const DeferralEffect* deferral() const;
  // Seconds that a layer with experts on both sides loses to passing between the device and the
  // CPU, measured now with nothing to compute; 0 where no layer of the plan does. Between steps.
  double MeasureHandOver();
  // "attention on PoCL..., 8 of 32 experts a layer on ..., rest on 2 CPU threads (avx512_bf16)"
  std::string Describe() const;
  // What the load found and went around: programs that a driver refuses.
  std::vector<std::string> Warnings() const;

 private:
  void WarmUp(ProgressSink* progress);
  void ProbeDeferral(ProgressSink* progress);

  struct Running;
  struct Impl;
  // Frees an engine, but leaks one whose device hangs: to free any of its memory would wait for the
  // device, for ever, and the device may still write to host memory.
  struct Closer {
    void operator()(Impl* impl) const noexcept;
  };
  std::unique_ptr<Impl, Closer> impl_;
};

}  // namespace tandem
