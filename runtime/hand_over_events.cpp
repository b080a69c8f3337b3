#include "runtime/hand_over_events.h"

#include <algorithm>
#include <utility>

#include "memory/error.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

// The device adds the host's sum so many rows at a time: at 7168 columns 7 MiB instead of 117 MiB
// for a chunk of 4096 rows, and each copy is long enough for the link's full rate.
constexpr std::int64_t kSumRows = 256;

// Up to so many rows a kernel packs the three inputs of a layer and one command reads them back:
// 31 us a layer instead of 37 for one row of 7168 on an H100, but no gain from 8 rows on.
constexpr std::int64_t kPackedRows = 2;

// Words of the packing kernel's memory, and of pinned memory.
std::int64_t PackedWords(const HandOverShape& s) {
  return cl::kHandOverPayload + cl::HandOverInputWords(std::min(s.max_rows, kPackedRows), s.D, s.K);
}
std::int64_t PinnedWords(const HandOverShape& s) {
  const std::int64_t overlapping = std::min(s.max_rows, kPolledRows);
  return std::max(cl::HandOverSlotWords(s.max_rows, s.D, s.K),
                  cl::kHandOverSlots * cl::HandOverSlotWords(overlapping, s.D, s.K));
}
std::int64_t SumRows(const HandOverShape& s) { return std::min(s.max_rows, kSumRows); }

std::size_t Bytes(std::int64_t words) { return static_cast<std::size_t>(words) * 4; }

void Check(cl_int error, const char* what, const ClDevice& device) {
  if (error == CL_SUCCESS) return;
  ThrowCl(error, fmt::format("'{}': hand-over by events: {}: {}", device.info().name, what,
                             ClErrorName(error)));
}

ClEventHandle UserEvent(const ClDevice& device) {
  cl_int error = CL_SUCCESS;
  ClEventHandle event(clCreateUserEvent(device.context(), &error));
  Check(error, "clCreateUserEvent", device);
  return event;
}

ClEventHandle Retained(const ClEventHandle& event, const ClDevice& device) {
  Check(clRetainEvent(event.get()), "clRetainEvent", device);
  return ClEventHandle(event.get());
}

// CL_COMPLETE, a state before it, or a negative error.
cl_int StatusOf(cl_event event, const ClDevice& device) {
  cl_int status = CL_QUEUED;
  Check(clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(status), &status, nullptr),
        "clGetEventInfo", device);
  return status;
}

}  // namespace

EventHandOver::EventHandOver(const ClDevice& device, cl::Kernels& kernels,
                             const HandOverShape& shape, Seconds watchdog)
    : device_(device),
      kernels_(kernels),
      shape_(shape),
      watchdog_(watchdog),
      pinned_(device, EventHandOverHostBytes(shape)),
      packed_(device.Allocate(Bytes(PackedWords(shape)))),
      sum_rows_(SumRows(shape)),
      device_sum_(device.Allocate(Bytes(sum_rows_ * shape.D))),
      control_(device.Allocate(cl::kHandOverControlBytes)) {
  device_.Zero(control_.get(), 0, cl::kHandOverControlBytes);
  const cl_uint go = 1;  // the sum is always there when the adding kernel runs
  device_.BlockingWrite(control_.get(), cl::kHandOverGo * sizeof(go), &go, sizeof(go));
}

// A queue that waits for an event which nobody will set would never end, and its copies would meet
// memory that is gone.
EventHandOver::~EventHandOver() {
  if (T_ == 0) return;
  Abandon();
  device_.Drain(DrainWatchdog());
}

void EventHandOver::BeginStep(std::int64_t T) {
  TANDEM_CHECK(T >= 1 && T <= shape_.max_rows);
  T_ = T;
  limit_ = watchdog_.count() > 0 ? watchdog_ : WatchdogOf(T, device_.info());
  awaited_ = published_ = 0;
  taking_.clear();
  current_ = {};
  const std::lock_guard lock(mutex_);
  layers_.clear();  // an abandoned step leaves layers that were published and never awaited
  abandoned_ = false;
}

void EventHandOver::ReadBack(const cl::Span& span, std::int64_t words, std::byte* to,
                             cl_event* event) const {
  Check(clEnqueueReadBuffer(device_.queue(), span.buffer, CL_FALSE, Bytes(span.offset),
                            Bytes(words), to, 0, nullptr, event),
        "clEnqueueReadBuffer", device_);
}

std::size_t EventHandOver::SumAt() const {
  return Bytes(cl::HandOverInputWords(T_, shape_.D, shape_.K));
}

// The queue is in order: a slot is written again after the Take of the layer that was there, hence
// after its Deliver.
std::byte* EventHandOver::NextSlot() {
  const std::int64_t slots = T_ <= kPolledRows ? cl::kHandOverSlots : 1;
  TANDEM_CHECK(static_cast<std::int64_t>(taking_.size()) < slots);
  return pinned_.host() +
         Bytes(published_++ % slots * cl::HandOverSlotWords(T_, shape_.D, shape_.K));
}

void EventHandOver::Publish(const cl::Span& h, const cl::Span& ids, const cl::Span& weights) {
  std::byte* const slot = NextSlot();  // may refuse; an event that nobody sets must not be left then
  Layer layer{nullptr, UserEvent(device_), slot};
  taking_.push_back({Retained(layer.delivered, device_), layer.slot});
  cl_event read = nullptr;
  const std::int64_t n = T_ * shape_.D;
  const std::int64_t k = T_ * shape_.K;
  if (T_ <= kPackedRows) {
    kernels_.HandOverPublish(
        {h, ids, weights, {packed_.get(), control_.get(), T_, shape_.D, shape_.K}, 0});
    ReadBack({packed_.get(), cl::kHandOverPayload}, n + 2 * k, layer.slot, &read);
  } else {
    ReadBack(h, n, layer.slot, nullptr);
    ReadBack(ids, k, layer.slot + Bytes(n), nullptr);
    ReadBack(weights, k, layer.slot + Bytes(n + k), &read);
  }
  layer.read.reset(read);
  device_.Flush();
  const std::lock_guard lock(mutex_);
  if (abandoned_) clSetUserEventStatus(layer.delivered.get(), CL_COMPLETE);
  layers_.push_back(std::move(layer));
}

void EventHandOver::Take(const cl::Span& x, std::int64_t x_stride) {
  TANDEM_CHECK(!taking_.empty());
  const cl_event delivered = taking_.front().delivered.get();
  const std::byte* sum = taking_.front().slot + SumAt();
  for (std::int64_t t = 0; t < T_; t += sum_rows_) {
    const std::int64_t rows = std::min(sum_rows_, T_ - t);
    Check(
        clEnqueueWriteBuffer(device_.queue(), device_sum_.get(), CL_FALSE, 0,
                             static_cast<std::size_t>(rows * shape_.D * 4), sum + t * shape_.D * 4,
                             t == 0 ? 1 : 0, t == 0 ? &delivered : nullptr, nullptr),
        "clEnqueueWriteBuffer", device_);
    kernels_.HandOverAdd({{device_sum_.get(), 0},
                          control_.get(),
                          {x.buffer, x.offset + t * x_stride},
                          x_stride,
                          rows,
                          shape_.D});
  }
  taking_.pop_front();
  device_.Flush();
}

bool EventHandOver::PopLayer() {
  const std::lock_guard lock(mutex_);
  if (layers_.empty()) return false;
  current_ = std::move(layers_.front());
  layers_.pop_front();
  return true;
}

void EventHandOver::NothingCame(const char* what) const {
  Throw<DeviceLostError>(
      "'{}': nothing came of hand-over {} of a step of {} rows for {} s (events): {}; the device "
      "hangs or is lost",
      device_.info().name, awaited_, T_, limit_.count(), what);
}

HandOverInput EventHandOver::Await() {
  ++awaited_;
  DeviceWait wait(device_.info().is_cpu, limit_);
  if (!wait.Until([this] { return PopLayer(); })) NothingCame("it was not enqueued");
  cl_int status = CL_QUEUED;
  const bool ended =
      wait.Until([&] { return (status = StatusOf(current_.read.get(), device_)) <= 0; });
  wait_s_ += wait.waited_s();
  if (!ended) NothingCame("its input was not read");
  // Only a wait makes the bytes visible; this one is over at once.
  const cl_event read = current_.read.get();
  const cl_int error = status < 0 ? status : clWaitForEvents(1, &read);
  if (error != CL_SUCCESS) {
    Throw<DeviceLostError>("'{}': hand-over {} of a step of {} rows failed: {} (events)",
                           device_.info().name, awaited_, T_, ClErrorName(error));
  }
  const auto* h = reinterpret_cast<const float*>(current_.slot);
  const float* ids = h + T_ * shape_.D;
  return {h, reinterpret_cast<const std::int32_t*>(ids), ids + T_ * shape_.K};
}

float* EventHandOver::sum() { return reinterpret_cast<float*>(current_.slot + SumAt()); }

void EventHandOver::Deliver() {
  TANDEM_CHECK(current_.delivered != nullptr);
  Check(clSetUserEventStatus(current_.delivered.get(), CL_COMPLETE), "clSetUserEventStatus",
        device_);
  current_ = {};
}

// Completed, not failed: an error would pass to every command behind it in the queue.
void EventHandOver::Abandon() noexcept {
  if (current_.delivered) clSetUserEventStatus(current_.delivered.get(), CL_COMPLETE);
  current_ = {};
  const std::lock_guard lock(mutex_);
  abandoned_ = true;
  for (const Layer& layer : layers_) clSetUserEventStatus(layer.delivered.get(), CL_COMPLETE);
  layers_.clear();
}

std::uint64_t EventHandOverHostBytes(const HandOverShape& shape) {
  return Bytes(PinnedWords(shape));
}

std::uint64_t EventHandOverDeviceBytes(const HandOverShape& shape) {
  return Bytes(PackedWords(shape) + SumRows(shape) * shape.D) + cl::kHandOverControlBytes;
}

}  // namespace tandem
