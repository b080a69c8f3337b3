#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"
#include "memory/cl_shared.h"
#include "placement/step_feed_shape.h"
#include "runtime/batch.h"

namespace tandem {

// Steps of few rows on a device that runs all of the model, perhaps without experts: what the host
// gives to a step and the ids that come back pass through memory that both see while kernels run.
// So a step may be enqueued before its tokens are known, while the one before runs; a kernel at its
// head waits for the rows, bounded. At most one step is enqueued ahead; the host's memory is two
// slots in turn.
class StepFeed {
 public:
  // Null where the device has no memory that both see. `control`: kFeedControlWords of the
  // device's, which outlive this. `wait_turns`: after so many turns the kernel gives up (0: some
  // 40 ms of a GPU's, about a second of a CPU's).
  static std::unique_ptr<StepFeed> Make(const ClDevice& device, cl::Kernels& kernels,
                                        const StepFeedShape& shape, cl_mem control,
                                        std::uint64_t wait_turns = 0);
  StepFeed(const StepFeed&) = delete;
  StepFeed& operator=(const StepFeed&) = delete;
  // Before any memory goes: drivers wait for the device before they free it.
  ~StepFeed();

  // False once the device did not see rows that were there: an error that EndStep threw.
  bool works() const { return works_; }
  std::int64_t most_rows() const { return shape_.rows; }
  std::uint64_t bytes() const { return shared_.bytes(); }

  // The next step, and where its batch goes. What follows is of that step.
  std::span<float> Begin();
  // Enqueues: batch and, once they are fed, x [T, D] to the device.
  void Take(const Batch& batch, cl_mem device_batch, cl_mem x);
  // Where its rows go [T, D], then that they are there. Before Take or after.
  float* rows() const;
  void Feed();
  // That its rows are awaited, and that the device gave up on that.
  bool awaited() const { return taken_ == begun_ && fed_ != begun_ && dropped_ != begun_; }
  bool late() const;
  // Its rows will not come: the device goes on with what x holds. The caller drains the queue
  // before it begins another step.
  void Drop() noexcept;

  // Of the step that was fed last. Enqueues: the largest of its logits [rows, V], to be awaited.
  void PublishIds(const cl::Span& logits, std::int64_t rows, std::int64_t V);
  // Waits as long as the watchdog allows; throws DeviceLostError. [rows, kArgmaxParts].
  void AwaitIds(std::span<cl::ArgmaxPart> parts);
  // After the step's last wait: throws OpenClError if the device did not see its rows.
  void EndStep();

 private:
  StepFeed(const ClDevice& device, cl::Kernels& kernels, const StepFeedShape& shape, cl_mem control,
           ClSharedBuffer shared, std::uint64_t wait_turns);
  std::uint32_t* word(std::int64_t index) const;
  std::int64_t Slot() const;  // first word of the step that was begun last

  const ClDevice& device_;
  cl::Kernels& kernels_;
  StepFeedShape shape_;
  cl_mem control_;  // non-owning
  ClSharedBuffer shared_;
  std::uint64_t turns_;
  // Numbers of steps: the last that was begun, enqueued, fed, dropped, and whose ids are awaited.
  std::uint32_t begun_ = 0, taken_ = 0, fed_ = 0, dropped_ = 0, chosen_ = 0;
  ClEventHandle published_;  // the end of what PublishIds enqueued
  bool works_ = true;
};

}  // namespace tandem
