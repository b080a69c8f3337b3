// Sequences, and one step of some rows of them.
#include <algorithm>
#include <unordered_map>

#include "placement/model_sizes.h"
#include "placement/scratch.h"
#include "runtime/clock.h"
#include "runtime/engine_impl.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

std::int64_t SequencesOf(std::span<const Row> rows) {
  std::int64_t changes = 1;  // rows of one sequence follow each other, or are one each
  for (std::size_t i = 1; i < rows.size(); ++i) {
    changes += rows[i].sequence != rows[i - 1].sequence ? 1 : 0;
  }
  return changes;
}

}  // namespace

// A step that is enqueued ahead has a table of blocks of its own, which these make out of date.
std::int32_t Engine::NewSequence() {
  impl_->CancelAhead();
  return impl_->Run().blocks.New();
}
void Engine::FreeSequence(std::int32_t sequence) {
  impl_->CancelAhead();
  impl_->Run().blocks.Free(sequence);
}
std::int32_t Engine::Fork(std::int32_t sequence, std::int64_t tokens) {
  impl_->CancelAhead();
  return impl_->Run().blocks.Fork(sequence, tokens);
}
void Engine::Truncate(std::int32_t sequence, std::int64_t tokens) {
  impl_->CancelAhead();
  impl_->Run().blocks.Truncate(sequence, tokens);
}
std::int64_t Engine::Length(std::int32_t sequence) const {
  return impl_->Run().blocks.Length(sequence);
}
std::int64_t Engine::FreeTokens() const { return impl_->Run().blocks.free_blocks() * kKvBlock; }

// Everything that can be wrong with a step is found here, before anything changes.
void Engine::Impl::CheckRows(std::span<const Row> rows, bool sink) const {
  const KvBlocks& blocks = Run().blocks;
  if (rows.empty()) throw UsageError("a step needs at least one row");
  if (static_cast<std::int64_t>(rows.size()) > plan.max_rows) {
    Throw<UsageError>("a step of {} rows; the plan allows {} (workload.chunk)", rows.size(),
                      plan.max_rows);
  }
  std::unordered_map<std::int32_t, std::int64_t> count;
  for (const Row& row : rows) {
    if (!blocks.Known(row.sequence)) Throw<UsageError>("sequence {} does not exist", row.sequence);
    const std::int64_t expected = blocks.Length(row.sequence) + count[row.sequence]++;
    if (row.position != expected) {
      Throw<UsageError>("sequence {}: position {} given, {} comes next", row.sequence, row.position,
                        expected);
    }
    if (row.token < 0 || row.token >= model.config.vocab_size) {
      Throw<UsageError>("token id {} is outside the vocabulary of {}", row.token,
                        model.config.vocab_size);
    }
    if (row.position >= model.config.max_position_embeddings) {
      Throw<UsageError>("position {} is beyond the model's max_position_embeddings {}",
                        row.position, model.config.max_position_embeddings);
    }
  }
  const std::int64_t wanted = std::ranges::count_if(rows, &Row::wants_logits);
  if (!sink && wanted > LogitRows(plan)) {
    Throw<UsageError>("{} rows want logits; a step returns at most {}, a sink takes more", wanted,
                      LogitRows(plan));
  }
  std::int64_t needed = 0;
  for (const auto& [sequence, n] : count) needed += blocks.BlocksFor(sequence, n);
  if (needed > blocks.free_blocks()) {
    Throw<UsageError>(
        "the KV cache is full: the step needs {} blocks of {} tokens, {} are free of "
        "{}; raise workload.context (--ctx) or free a sequence",
        needed, kKvBlock, blocks.free_blocks(), plan.kv_blocks);
  }
}

void Engine::Impl::AppendRows(std::span<const Row> rows, KvBlocks& blocks) {
  std::vector<KvBlocks::Copy> copies;
  for (const Row& row : rows) blocks.Append(row.sequence, 1, copies);
  if (!copies.empty()) CopyBlocks(copies);
}

void Engine::Impl::CopyBlocks(const std::vector<KvBlocks::Copy>& copies) {
  const std::size_t bytes = KvLayerBytes(model.config, 1, plan.kv_type);
  const std::int64_t each = running->forward.batch.kv_part_blocks;  // of a device's buffer
  for (const KvStore& store : running->forward.kv) {
    for (const KvBlocks::Copy& copy : copies) {
      if (!store.device.empty()) {
        first()->device.Copy(store.device[copy.from / each].get(), copy.from % each * bytes,
                             store.device[copy.to / each].get(), copy.to % each * bytes, bytes);
      } else {
        std::copy_n(store.host.data() + copy.from * bytes, bytes,
                    store.host.data() + copy.to * bytes);
      }
    }
  }
}

std::span<const float> Engine::Impl::RunStep(Running& r) {
  HandOver* hand_over = first() != nullptr ? first()->hand_over.get() : nullptr;
  if (hand_over != nullptr) hand_over->BeginStep(r.forward.T());
  const std::span<const float> logits = r.decoder.Step();
  if (hand_over != nullptr) hand_over->EndStep();
  return logits;
}

void Engine::Impl::Watch(std::size_t rows) const {
  for (const auto& device : devices) {
    device->device.Watch(WatchdogOf(static_cast<std::int64_t>(rows), device->device.info()),
                         fmt::format("a step of {} rows", rows));
  }
}

// A failure on the way leaves the devices' queues drained, not waiting for sums that never come,
// and not writing to memory that its owner may free. The sums come first: drivers wait for a queue
// before they free memory.
void Engine::Impl::EndFailedStep() noexcept {
  running->ahead.reset();
  if (running->feed) running->feed->Drop();
  for (const auto& device : devices) {
    if (device->hand_over) device->hand_over->Abandon();
    device->device.Drain(DrainWatchdog());
  }
}

void Engine::Impl::Prepare(std::span<const Row> rows) {
  AppendRows(rows, running->blocks);
  Batch& batch = running->forward.batch;
  batch.memory = running->host.Scratch("batch");
  FillBatch(batch, rows, running->blocks, inv_freq, model.config.rope_attention_factor());
  if (first() != nullptr && first()->HasScratch("batch")) first()->Upload(batch);
}

std::span<const float> Engine::Step(std::span<const Row> rows, StepObserver* observer,
                                    const LogitsSink* sink) {
  return impl_->Step(rows, observer, sink, /*greedy=*/false, {});
}

std::span<const std::int32_t> Engine::StepGreedy(std::span<const Row> rows,
                                                 std::span<const Row> next) {
  impl_->Step(rows, nullptr, nullptr, /*greedy=*/true, next);
  return impl_->running->decoder.greedy();
}

// Through the host and the devices, layer by layer.
std::span<const float> Engine::Impl::WholeStep(std::span<const Row> rows) {
  const WorkerPool::CallerPin pin(running->host.pool);
  CancelAhead();
  Watch(rows.size());
  Prepare(rows);
  return RunStep(*running);
}

std::span<const float> Engine::Impl::Step(std::span<const Row> rows, StepObserver* observer,
                                          const LogitsSink* sink, bool greedy,
                                          std::span<const Row> next) {
  CheckRows(rows, sink != nullptr);
  const double start = Now();
  Running& r = *running;
  r.forward.observer = observer;
  r.forward.sink = sink;
  r.forward.greedy = greedy;
  r.forward.deferral = defers;
  r.forward.uncounted = probes;
  std::span<const float> logits;
  try {
    logits = Feeds(rows, observer, sink) ? FedStep(rows, next) : WholeStep(rows);
  } catch (...) {
    EndFailedStep();
    throw;
  }
  metrics.Count(rows.size(), SequencesOf(rows), Now() - start);
  return logits;
}

}  // namespace tandem
