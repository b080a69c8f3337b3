#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "memory/error.h"
#include "runtime/decoder.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "runtime/step_feed.h"
#include "runtime/weight_layout.h"
#include "runtime/weights.h"

namespace tandem {

// What is behind the engine's interface, for engine*.cpp.

// A step that is enqueued but for its tokens, and what it changes once it is made.
struct StepAhead {
  std::vector<Row> rows;
  KvBlocks blocks;
  std::uint64_t weight_bytes = 0;
  std::int64_t expert_rows = 0;
};

// What steps need beside the weights; built anew for every plan.
struct Engine::Running {
  Running(const Model& model, const Plan& plan, const Weights& weights,
          std::span<DeviceSide* const> devices);
  void MakeHandOver(const Config& c, const Plan& plan, DeviceSide& device);
  void MakeFeed(const Config& c, const Plan& plan, DeviceSide& device);

  HostSide host;
  KvBlocks blocks;
  Forward forward;
  Decoder decoder;
  HandOverShape hand_over_shape;
  std::optional<StepAhead> ahead;
  std::unique_ptr<StepFeed> feed;  // null: steps are not fed; the first to go
  bool polls = false;              // few rows, by the hand-over
  bool hands_over = false;         // a layer passes from the first device to the host or another
};

struct Engine::Impl {
  Impl(Model m, Plan p) : model(std::move(m)), inv_freq(model.config.inv_freq()) {
    plan = std::move(p);
  }

  // Obeys `plan`: loads, or goes over from what is there. `running` must be gone.
  void Start(ProgressSink* progress);
  void OpenDevices();
  void MoveWeights(ProgressSink* progress);
  void CheckMove(const Plan& next) const;
  Running& Run() const {
    if (running) return *running;
    throw Error(ExitCode::kInternal,
                "the engine is gone: it could not go over to another plan, or lost its device");
  }

  void CheckRows(std::span<const Row> rows, bool sink) const;
  void AppendRows(std::span<const Row> rows, KvBlocks& blocks);
  void Prepare(std::span<const Row> rows);
  std::span<const float> Step(std::span<const Row> rows, StepObserver* observer,
                              const LogitsSink* sink, bool greedy, std::span<const Row> next);
  std::span<const float> WholeStep(std::span<const Row> rows);
  std::span<const float> RunStep(Running& r);
  void Watch(std::size_t rows) const;
  void EndFailedStep() noexcept;
  void CopyBlocks(const std::vector<KvBlocks::Copy>& copies);

  // engine_ahead.cpp
  bool Feeds(std::span<const Row> rows, const StepObserver* observer, const LogitsSink* sink) const;
  bool MayStep(std::span<const Row> rows) const;
  std::span<const float> FedStep(std::span<const Row> rows, std::span<const Row> next);
  void BeginFed(std::span<const Row> rows, const KvBlocks& blocks);
  void PrepareAhead(std::span<const Row> now, std::span<const Row> next);
  bool TakeAhead(std::span<const Row> rows);
  void CancelAhead() noexcept;

  Model model;
  Plan plan;
  DeviceSide* first() const { return devices.empty() ? nullptr : devices[0].get(); }
  std::vector<DeviceSide*> sides() const;
  bool Hangs() const {
    return std::ranges::any_of(devices, [](const auto& d) { return d->device.Hangs(); });
  }
  std::vector<std::unique_ptr<DeviceSide>> devices;  // as in the plan
  std::unique_ptr<Weights> weights;
  std::optional<RowCut> cut;  // of the weights on the host
  std::vector<double> inv_freq;
  std::unique_ptr<Running> running;
  mutable Metrics metrics;
  bool defers = false;  // steps from now on
  bool probes = false;
  std::optional<DeferralEffect> deferral;
};

}  // namespace tandem
