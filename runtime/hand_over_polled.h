#pragma once

#include <atomic>
#include <cstdint>

#include "memory/cl_shared.h"
#include "memory/cl_wait.h"
#include "runtime/hand_over.h"

namespace tandem {

// The polled kind, for steps of at most shape.max_rows rows. After EndStep has thrown, the device's
// waiting kernels wait no more: use another kind from then on.
class PolledHandOver final : public HandOver {
 public:
  // `shared` holds HandOverWords of the shape. `watchdog`: as long as Await waits.
  PolledHandOver(const ClDevice& device, cl::Kernels& kernels, const HandOverShape& shape,
                 ClSharedBuffer shared, std::uint64_t wait_turns, Seconds watchdog = Seconds{0});
  ~PolledHandOver() override;

  HandOverKind kind() const override { return HandOverKind::kPolled; }
  void BeginStep(std::int64_t T) override;
  void Publish(const cl::Span& h, const cl::Span& ids, const cl::Span& weights) override;
  void Take(const cl::Span& x, std::int64_t x_stride) override;
  HandOverInput Await() override;
  float* sum() override;
  void Deliver() override;
  void Abandon() noexcept override;
  void EndStep() override;
  double wait_s() const override { return wait_s_; }

 private:
  std::uint32_t* word(std::int64_t index) const;
  std::int64_t SlotOf(std::uint32_t sequence) const;  // its first word
  cl::HandOverMemory memory(std::uint32_t sequence) const;

  const ClDevice& device_;
  cl::Kernels& kernels_;
  HandOverShape shape_;
  ClSharedBuffer shared_;
  ClBuffer control_;
  std::uint64_t turns_;
  Seconds watchdog_;                          // 0: that of a step of so many rows
  Seconds limit_{0};                          // of this step
  std::int64_t T_ = 0;                        // 0: no step is under way
  std::atomic<std::uint32_t> published_ = 0;  // sequence number of the last Publish
  std::uint32_t taken_ = 0;
  std::uint32_t awaited_ = 0;
  std::uint32_t step_begin_ = 0;  // sequence number before the step's first
  double wait_s_ = 0;
};

}  // namespace tandem
