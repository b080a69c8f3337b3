#include "runtime/hand_over.h"

#include <algorithm>
#include <array>
#include <utility>

#include "memory/cl_shared.h"
#include "memory/error.h"
#include "runtime/hand_over_events.h"
#include "runtime/hand_over_polled.h"

namespace tandem {
namespace {

HandOverShape PolledShape(const HandOverShape& shape) {
  return {shape.D, shape.K, std::min(shape.max_rows, kPolledRows)};
}

std::uint64_t PolledBytes(const HandOverShape& shape) {
  return static_cast<std::uint64_t>(cl::HandOverWords(shape.max_rows, shape.D, shape.K)) * 4;
}

// Few rows by polling, more by events; all by events after a waiting kernel gave up.
class PolledOrEvents final : public HandOver {
 public:
  PolledOrEvents(const ClDevice& device, cl::Kernels& kernels, const HandOverShape& shape,
                 ClSharedBuffer shared, std::uint64_t wait_turns)
      : polled_(device, kernels, PolledShape(shape), std::move(shared), wait_turns),
        events_(device, kernels, shape) {}
  // Before any memory goes: drivers wait for the device before they free it.
  ~PolledOrEvents() override { now_->Abandon(); }

  HandOverKind kind() const override { return now_->kind(); }
  void BeginStep(std::int64_t T) override {
    now_ = T <= kPolledRows && !gave_up_ ? static_cast<HandOver*>(&polled_) : &events_;
    now_->BeginStep(T);
  }
  void Publish(const cl::Span& h, const cl::Span& ids, const cl::Span& weights) override {
    now_->Publish(h, ids, weights);
  }
  void Take(const cl::Span& x, std::int64_t x_stride) override { now_->Take(x, x_stride); }
  HandOverInput Await() override { return now_->Await(); }
  float* sum() override { return now_->sum(); }
  void Deliver() override { now_->Deliver(); }
  void Abandon() noexcept override { now_->Abandon(); }
  void EndStep() override {
    try {
      now_->EndStep();
    } catch (...) {
      gave_up_ = true;
      throw;
    }
  }
  double wait_s() const override { return polled_.wait_s() + events_.wait_s(); }

 private:
  PolledHandOver polled_;
  EventHandOver events_;
  HandOver* now_ = &polled_;
  bool gave_up_ = false;
};

}  // namespace

std::string_view Name(HandOverKind kind) {
  constexpr std::array<std::string_view, 2> kNames{"polled", "events"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::uint64_t HandOverHostBytes(const HandOverShape& shape) {
  return EventHandOverHostBytes(shape) + PolledBytes(PolledShape(shape));
}

std::uint64_t HandOverDeviceBytes(const HandOverShape& shape) {
  return EventHandOverDeviceBytes(shape) + cl::kHandOverControlBytes;
}

std::unique_ptr<HandOver> MakeHandOver(const ClDevice& device, cl::Kernels& kernels,
                                       const HandOverShape& shape, std::optional<HandOverKind> kind,
                                       std::uint64_t wait_turns) {
  const HandOverKind wanted =
      kind.value_or(device.info().is_cpu ? HandOverKind::kEvents : HandOverKind::kPolled);
  if (wanted == HandOverKind::kPolled) {
    auto shared = ClSharedBuffer::Allocate(device, PolledBytes(PolledShape(shape)));
    if (shared) {
      return std::make_unique<PolledOrEvents>(device, kernels, shape, *std::move(shared),
                                              wait_turns);
    }
  }
  if (kind == HandOverKind::kPolled) {
    Throw<OpenClError>(
        "'{}' has no memory that the host and a running kernel both see, which hand-over 'polled' "
        "needs; use 'events'",
        device.info().name);
  }
  return std::make_unique<EventHandOver>(device, kernels, shape);
}

}  // namespace tandem
