// Steps of few rows that the plan's device leads: the next one's first launches are enqueued while
// the present one runs, for rows that the caller expects.
#include <algorithm>
#include <optional>

#include "memory/error.h"
#include "runtime/engine_impl.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

// All but the tokens. Which rows want logits matters at the end of the step only.
bool SamePlaces(std::span<const Row> a, std::span<const Row> b) {
  return std::ranges::equal(a, b, [](const Row& left, const Row& right) {
    return left.sequence == right.sequence && left.position == right.position;
  });
}

}  // namespace

bool Engine::Impl::Feeds(std::span<const Row> rows, const StepObserver* observer,
                         const LogitsSink* sink) const {
  const auto& feed = running->feed;
  const bool streams = plan.stream_prefill && std::ssize(rows) >= plan.stream.rows;
  return feed && feed->works() && std::ssize(rows) <= feed->most_rows() && !streams &&
         observer == nullptr && sink == nullptr;
}

// The device runs through what was enqueued, with the tokens of the step before; what that writes
// to the KV cache are places that no sequence has.
void Engine::Impl::CancelAhead() noexcept {
  if (!running || !running->ahead) return;
  running->ahead.reset();
  running->feed->Drop();
  first()->device.Drain(DrainWatchdog());
}

// That the step was enqueued ahead; it counts from here on. A caller that took long enough for the
// kernel to give up has lost nothing.
bool Engine::Impl::TakeAhead(std::span<const Row> rows) {
  Running& r = *running;
  if (!r.ahead) return false;
  if (!SamePlaces(r.ahead->rows, rows) || r.feed->late()) {
    CancelAhead();
    return false;
  }
  r.blocks = std::move(r.ahead->blocks);
  first()->metrics.device_weight_bytes += r.ahead->weight_bytes;
  first()->metrics.expert_rows_device += r.ahead->expert_rows;
  ++metrics.steps_ahead;
  r.ahead.reset();
  r.forward.batch.rows = rows;
  return true;
}

void Engine::Impl::BeginFed(std::span<const Row> rows, const KvBlocks& blocks) {
  Batch& batch = running->forward.batch;
  batch.memory = running->feed->Begin();
  FillBatch(batch, rows, blocks, inv_freq, model.config.rope_attention_factor());
  first()->PlaceBatch(batch);
}

std::span<const float> Engine::Impl::FedStep(std::span<const Row> rows, std::span<const Row> next) {
  Running& r = *running;
  std::optional<WorkerPool::CallerPin> pin;
  if (r.hands_over) pin.emplace(r.host.pool);
  if (TakeAhead(rows)) {
    r.decoder.Feed();
  } else {
    AppendRows(rows, r.blocks);
    BeginFed(rows, r.blocks);
    r.decoder.Feed();
    r.decoder.Begin();
  }
  Watch(rows.size());
  HandOver* hand_over = r.hands_over ? first()->hand_over.get() : nullptr;
  if (hand_over != nullptr) hand_over->BeginStep(r.forward.T());
  const std::span<const float> logits = r.decoder.Finish([&] { PrepareAhead(rows, next); });
  if (hand_over != nullptr) hand_over->EndStep();
  r.feed->EndStep();
  return logits;
}

// A caller may expect what there is no room for: it learns of that when it makes the step.
bool Engine::Impl::MayStep(std::span<const Row> rows) const {
  try {
    CheckRows(rows, /*sink=*/false);
    return true;
  } catch (const UsageError&) {
    return false;
  }
}

// The engine's own blocks and counters do not change before the step is made. A step of another
// number of rows is left to its caller: its kernels may be launched for the first time, and a
// driver that loads them then holds the host until the kernel that waits has given up.
void Engine::Impl::PrepareAhead(std::span<const Row> now, std::span<const Row> next) {
  if (next.size() != now.size() || !Feeds(next, nullptr, nullptr)) return;
  Running& r = *running;
  StepAhead ahead{{next.begin(), next.end()}, r.blocks};
  for (Row& row : ahead.rows) row.token = 0;
  if (!MayStep(ahead.rows)) return;
  // Where sequences part, the last one to write to a block that they shared writes in place: to
  // what others still read if the step is not made.
  std::vector<KvBlocks::Copy> copies;
  for (const Row& row : ahead.rows) ahead.blocks.Append(row.sequence, 1, copies);
  if (!copies.empty()) return;
  Metrics& counted = first()->metrics;
  const std::uint64_t weight_bytes = counted.device_weight_bytes;
  const std::int64_t expert_rows = counted.expert_rows_device;
  BeginFed(ahead.rows, ahead.blocks);
  r.decoder.Begin();
  ahead.weight_bytes = std::exchange(counted.device_weight_bytes, weight_bytes) - weight_bytes;
  ahead.expert_rows = std::exchange(counted.expert_rows_device, expert_rows) - expert_rows;
  r.ahead = std::move(ahead);
}

void Engine::ExpectNothing() { impl_->CancelAhead(); }

}  // namespace tandem
