#include "runtime/step_feed.h"

#include <algorithm>
#include <utility>

#include "memory/cl_wait.h"
#include "memory/error.h"
#include "runtime/shared_words.h"
#include "runtime/watchdog.h"

namespace tandem {

namespace {

// A GPU's driver may hold the host until the kernel that waits has ended (NVIDIA's does where
// device memory is freed), so that it waits for a small part of a second. On a CPU the host itself
// may wait for a core.
std::uint64_t Turns(const ClDevice& device) {
  constexpr std::uint64_t kBrief = 32;
  return device.info().is_cpu ? TurnsOfSecond(device) : TurnsOfSecond(device) / kBrief;
}

}  // namespace

static_assert(StepFeedShape::kFlags == cl::kFeedIds);
static_assert(StepFeedShape::kControl == cl::kFeedControlWords);
static_assert(StepFeedShape::kIdWords * sizeof(float) == cl::kArgmaxParts * sizeof(cl::ArgmaxPart));

std::unique_ptr<StepFeed> StepFeed::Make(const ClDevice& device, cl::Kernels& kernels,
                                         const StepFeedShape& shape, cl_mem control,
                                         std::uint64_t wait_turns) {
  const auto bytes = static_cast<std::size_t>(shape.words()) * sizeof(float);
  auto shared = ClSharedBuffer::Allocate(device, bytes);
  if (!shared) return nullptr;
  return std::unique_ptr<StepFeed>(
      new StepFeed(device, kernels, shape, control, *std::move(shared), wait_turns));
}

StepFeed::StepFeed(const ClDevice& device, cl::Kernels& kernels, const StepFeedShape& shape,
                   cl_mem control, ClSharedBuffer shared, std::uint64_t wait_turns)
    : device_(device),
      kernels_(kernels),
      shape_(shape),
      control_(control),
      shared_(std::move(shared)),
      turns_(wait_turns) {
  if (turns_ == 0) turns_ = Turns(device);
  device_.Zero(control_, 0, cl::kFeedControlWords * sizeof(float));
}

StepFeed::~StepFeed() {
  if (!awaited()) return;
  Drop();
  device_.Drain(DrainWatchdog());
}

std::uint32_t* StepFeed::word(std::int64_t index) const {
  return reinterpret_cast<std::uint32_t*>(shared_.host()) + index;
}

std::int64_t StepFeed::Slot() const {
  return shape_.first_slot() + begun_ % StepFeedShape::kSlots * shape_.slot();
}

// The slot was that of the step before the last one: its ids have come, or it was dropped and
// drained.
std::span<float> StepFeed::Begin() {
  ++begun_;
  return {reinterpret_cast<float*>(word(Slot())), static_cast<std::size_t>(shape_.batch_words)};
}

float* StepFeed::rows() const {
  return reinterpret_cast<float*>(word(Slot() + shape_.first_row()));
}

void StepFeed::Take(const Batch& batch, cl_mem device_batch, cl_mem x) {
  TANDEM_CHECK(batch.T <= shape_.rows && batch.words <= shape_.batch_words);
  taken_ = begun_;
  kernels_.FeedTake({shared_.mem(), control_, Slot(), batch.words, device_batch,
                     Slot() + shape_.first_row(), batch.T * shape_.D, x, begun_, turns_});
}

void StepFeed::Feed() {
  fed_ = begun_;
  StoreWord(word(cl::kFeedFed), begun_);
}

bool StepFeed::late() const { return LoadWord(word(cl::kFeedLate)) == begun_; }

void StepFeed::Drop() noexcept {
  dropped_ = begun_;
  StoreWord(word(cl::kFeedDropped), begun_);
}

void StepFeed::PublishIds(const cl::Span& logits, std::int64_t rows, std::int64_t V) {
  TANDEM_CHECK(rows <= shape_.rows);
  chosen_ = fed_;
  kernels_.ArgmaxPublish({logits, rows, V, shared_.mem(), control_, chosen_});
  cl_event event = nullptr;
  ClCheck(clEnqueueMarkerWithWaitList(device_.queue(), 0, nullptr, &event),
          "clEnqueueMarkerWithWaitList", device_);
  published_.reset(event);
}

// The number comes quicker than any call tells of it, but after an error it never does: now and
// then a look at the event of the launches.
void StepFeed::AwaitIds(std::span<cl::ArgmaxPart> parts) {
  constexpr std::uint32_t kLooks = 1024;  // at the number, for one at the event
  constexpr Seconds kSpin{2e-2};          // as long as most steps take: the host has nothing to do
  const Seconds limit = WatchdogOf(std::ssize(parts) / cl::kArgmaxParts, device_.info());
  std::uint32_t* chosen = word(cl::kFeedChosen);
  DeviceWait wait(device_.info().is_cpu, limit, kSpin);
  std::uint32_t looks = 0;
  const bool came = wait.Until([&] {
    if (++looks % kLooks == 0) device_.CheckNotFailed(published_.get());
    return LoadWord(chosen) == chosen_;
  });
  published_.reset();
  if (!came) {
    Throw<DeviceLostError>(
        "'{}': no ids of a step of {} rows came for {} s; the device hangs or is lost",
        device_.info().name, std::ssize(parts) / cl::kArgmaxParts, limit.count());
  }
  std::copy_n(reinterpret_cast<const cl::ArgmaxPart*>(word(cl::kFeedIds)), parts.size(),
              parts.begin());
}

void StepFeed::EndStep() {
  if (fed_ == 0 || LoadWord(word(cl::kFeedLate)) != fed_) return;
  works_ = false;
  Throw<OpenClError>(
      "'{}': the kernel that waits for a step's rows gave up after {} turns; the step is lost; "
      "later steps are not enqueued ahead",
      device_.info().name, turns_);
}

}  // namespace tandem
