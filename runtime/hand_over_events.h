#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>

#include "memory/cl_shared.h"
#include "memory/cl_wait.h"
#include "runtime/hand_over.h"

namespace tandem {

// The kind that every device has: read commands into pinned memory, whose event the host waits for,
// and write commands that wait for an event of the host's.
class EventHandOver final : public HandOver {
 public:
  EventHandOver(const ClDevice& device, cl::Kernels& kernels, const HandOverShape& shape,
                Seconds watchdog = Seconds{0});
  ~EventHandOver() override;

  HandOverKind kind() const override { return HandOverKind::kEvents; }
  void BeginStep(std::int64_t T) override;
  void Publish(const cl::Span& h, const cl::Span& ids, const cl::Span& weights) override;
  void Take(const cl::Span& x, std::int64_t x_stride) override;
  HandOverInput Await() override;
  float* sum() override;
  void Deliver() override;
  void Abandon() noexcept override;
  void EndStep() override { T_ = 0; }
  double wait_s() const override { return wait_s_; }

 private:
  // A layer on its way. The enqueuing thread may be a whole step ahead, so each has its own.
  struct Layer {
    ClEventHandle read;       // its input is in pinned memory
    ClEventHandle delivered;  // of the host: the device may fetch the sum
    std::byte* slot = nullptr;
  };
  // Of the enqueuing thread, from Publish to Take.
  struct Taking {
    ClEventHandle delivered;
    std::byte* slot = nullptr;
  };
  std::byte* NextSlot();
  std::size_t SumAt() const;  // in a slot, of steps of T_ rows
  bool PopLayer();
  void ReadBack(const cl::Span& span, std::int64_t words, std::byte* to, cl_event* event) const;
  [[noreturn]] void NothingCame(const char* what) const;

  const ClDevice& device_;
  cl::Kernels& kernels_;
  HandOverShape shape_;
  Seconds watchdog_;  // 0: that of a step of so many rows
  Seconds limit_{0};  // of this step
  // Slots: h [T, D], ids [T, K], weights [T, K] without gaps, then the sum. Two for steps whose
  // layers may overlap, else one.
  ClPinned pinned_;
  ClBuffer packed_;        // the same of few rows on the device
  std::int64_t sum_rows_;  // that the device holds at once
  ClBuffer device_sum_;
  ClBuffer control_;
  std::int64_t T_ = 0;          // 0: no step is under way
  std::int64_t published_ = 0;  // in this step
  std::deque<Taking> taking_;   // published and not taken yet

  std::mutex mutex_;  // guards the two below
  std::deque<Layer> layers_;
  bool abandoned_ = false;
  Layer current_;             // of the computing thread, from Await to Deliver
  std::int64_t awaited_ = 0;  // in this step
  double wait_s_ = 0;
};

// Bytes of pinned memory and of device memory that it takes.
std::uint64_t EventHandOverHostBytes(const HandOverShape& shape);
std::uint64_t EventHandOverDeviceBytes(const HandOverShape& shape);

}  // namespace tandem
