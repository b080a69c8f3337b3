#include "runtime/hand_over_polled.h"

#include <utility>

#include "memory/error.h"
#include "runtime/shared_words.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

// Sequence numbers go round: `seen` is `wanted` or a later one.
bool Reached(std::uint32_t seen, std::uint32_t wanted) {
  return static_cast<std::int32_t>(seen - wanted) >= 0;
}

}  // namespace

PolledHandOver::PolledHandOver(const ClDevice& device, cl::Kernels& kernels,
                               const HandOverShape& shape, ClSharedBuffer shared,
                               std::uint64_t wait_turns, Seconds watchdog)
    : device_(device),
      kernels_(kernels),
      shape_(shape),
      shared_(std::move(shared)),
      control_(device.Allocate(cl::kHandOverControlBytes)),
      turns_(wait_turns == 0 ? TurnsOfSecond(device) : wait_turns),
      watchdog_(watchdog) {
  device_.Zero(control_.get(), 0, cl::kHandOverControlBytes);
}

// A step that an exception cut short must not leave commands behind that use memory which is gone.
PolledHandOver::~PolledHandOver() {
  if (T_ == 0) return;
  Abandon();
  device_.Drain(DrainWatchdog());
}

std::uint32_t* PolledHandOver::word(std::int64_t index) const {
  return reinterpret_cast<std::uint32_t*>(shared_.host()) + index;
}

// Layers use the slots in turn. The device writes to a slot again once it has taken the sum of the
// layer that was there, hence after Deliver; the host sees that number no sooner than the input.
std::int64_t PolledHandOver::SlotOf(std::uint32_t sequence) const {
  return cl::kHandOverPayload +
         sequence % cl::kHandOverSlots * cl::HandOverSlotWords(T_, shape_.D, shape_.K);
}

cl::HandOverMemory PolledHandOver::memory(std::uint32_t sequence) const {
  return {shared_.mem(), control_.get(), T_, shape_.D, shape_.K, SlotOf(sequence)};
}

void PolledHandOver::BeginStep(std::int64_t T) {
  TANDEM_CHECK(T >= 1 && T <= shape_.max_rows);
  T_ = T;
  limit_ = watchdog_.count() > 0 ? watchdog_ : WatchdogOf(T, device_.info());
  // An abandoned step leaves numbers that were published and never awaited.
  step_begin_ = awaited_ = taken_ = published_;
  StoreWord(word(cl::kHandOverAbandoned), 0);
}

void PolledHandOver::Publish(const cl::Span& h, const cl::Span& ids, const cl::Span& weights) {
  const std::uint32_t sequence = ++published_;
  TANDEM_CHECK(sequence - taken_ <= cl::kHandOverSlots);
  kernels_.HandOverPublish({h, ids, weights, memory(sequence), sequence});
  device_.Flush();
}

void PolledHandOver::Take(const cl::Span& x, std::int64_t x_stride) {
  TANDEM_CHECK(taken_ != published_);
  ++taken_;
  kernels_.HandOverTake({memory(taken_), x, x_stride, taken_, turns_});
  device_.Flush();
}

HandOverInput PolledHandOver::Await() {
  ++awaited_;
  std::uint32_t* published = word(cl::kHandOverPublished);
  DeviceWait wait(device_.info().is_cpu, limit_);
  const bool came = wait.Until([&] { return Reached(LoadWord(published), awaited_); });
  wait_s_ += wait.waited_s();
  if (!came) {
    Throw<DeviceLostError>(
        "'{}': nothing came of hand-over {} of a step of {} rows for {} s (polled); the device "
        "hangs or is lost",
        device_.info().name, awaited_ - step_begin_, T_, limit_.count());
  }
  const std::uint32_t* h = word(SlotOf(awaited_));
  const std::uint32_t* ids = h + T_ * shape_.D;
  return {reinterpret_cast<const float*>(h), reinterpret_cast<const std::int32_t*>(ids),
          reinterpret_cast<const float*>(ids + T_ * shape_.K)};
}

float* PolledHandOver::sum() {
  return reinterpret_cast<float*>(
      word(SlotOf(awaited_) + cl::HandOverInputWords(T_, shape_.D, shape_.K)));
}

void PolledHandOver::Deliver() { StoreWord(word(cl::kHandOverDelivered), awaited_); }

void PolledHandOver::Abandon() noexcept { StoreWord(word(cl::kHandOverAbandoned), 1); }

void PolledHandOver::EndStep() {
  const std::int64_t rows = std::exchange(T_, 0);
  if (LoadWord(word(cl::kHandOverGaveUp)) == 0) return;
  Throw<OpenClError>(
      "'{}': the kernel that waits for the host's sum of hand-over {} of a step of {} rows gave up "
      "after {} turns; the step is lost; later steps use events",
      device_.info().name, *word(cl::kHandOverGaveUp + 1) - step_begin_, rows, turns_);
}

}  // namespace tandem
