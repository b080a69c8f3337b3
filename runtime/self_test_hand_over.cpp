// The kernels through which a layer passes to the host and back, one after the other: nothing waits
// here for anything that has not come.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>

#include "cl_kernels/device_traits.h"
#include "memory/cl_shared.h"
#include "runtime/self_test_cases.h"

namespace tandem {
namespace {

constexpr std::int64_t K = 6;
constexpr std::uint32_t kSequence = 5;
constexpr std::uint64_t kTurns = 1000;

// The memory of the polled hand-over where the device has any, else a buffer of its own.
class SharedWords {
 public:
  SharedWords(const ClDevice& device, std::int64_t words)
      : device_(device), shared_(ClSharedBuffer::Allocate(device, Size(words) * sizeof(float))) {
    if (shared_) return;
    plain_ = device.Allocate(Size(words) * sizeof(float));
    device.Zero(plain_.get(), 0, plain_.bytes());
  }

  cl_mem mem() const { return shared_ ? shared_->mem() : plain_.get(); }

  // Both after the device has finished.
  void Read(std::int64_t word, void* to, std::size_t bytes) const {
    device_.Finish();
    const std::size_t at = Size(word) * sizeof(float);
    if (!shared_) return device_.BlockingRead(plain_.get(), at, to, bytes);
    std::atomic_thread_fence(std::memory_order_acquire);
    std::memcpy(to, shared_->host() + at, bytes);
  }
  void Write(std::int64_t word, const void* from, std::size_t bytes) const {
    device_.Finish();
    const std::size_t at = Size(word) * sizeof(float);
    if (!shared_) return device_.BlockingWrite(plain_.get(), at, from, bytes);
    std::memcpy(shared_->host() + at, from, bytes);
    std::atomic_thread_fence(std::memory_order_release);
  }

 private:
  const ClDevice& device_;
  std::optional<ClSharedBuffer> shared_;
  ClBuffer plain_;
};

Doubles Added(const Floats& x, const Floats& sum) {
  Doubles want;
  for (std::size_t i = 0; i < x.size(); ++i) want.push_back(static_cast<double>(x[i]) + sum[i]);
  return want;
}

}  // namespace

// What the host finds, number and payload.
void SelfTestCases::PublishAndTake(std::int64_t T, std::int64_t D) {
  const Floats h = Random(T * D), weights = Random(T * K), sum = Random(T * D);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < T * K; ++i) ids.push_back(static_cast<std::int32_t>(random_() % 64));
  const ClBuffer dh = Upload(h), dids = Upload(ids), dweights = Upload(weights);
  const ClBuffer control = Upload(std::vector<std::byte>(cl::kHandOverControlBytes));
  const SharedWords words(device(), cl::HandOverWords(T, D, K));
  const cl::HandOverMemory memory{words.mem(), control.get(), T, D, K};
  kernels_.HandOverPublish(
      {{dh.get(), 0}, {dids.get(), 0}, {dweights.get(), 0}, memory, kSequence});
  Floats got(1 + h.size() + weights.size());
  std::vector<std::int32_t> got_ids(ids.size());
  std::uint32_t number = 0;
  words.Read(cl::kHandOverPublished, &number, sizeof(number));
  got[0] = static_cast<float>(number);
  words.Read(memory.payload, &got[1], h.size() * sizeof(float));
  words.Read(memory.payload + T * D, got_ids.data(), ids.size() * sizeof(float));
  words.Read(memory.payload + T * (D + K), &got[1 + h.size()], weights.size() * sizeof(float));
  Doubles want{kSequence};
  want.insert(want.end(), h.begin(), h.end());
  want.insert(want.end(), weights.begin(), weights.end());
  want.insert(want.end(), ids.begin(), ids.end());
  got.insert(got.end(), got_ids.begin(), got_ids.end());
  Add("hand-over", fmt::format("publish {} rows of {}", T, D), DType::kF32, 0, want, got);
  words.Write(memory.payload + cl::HandOverInputWords(T, D, K), sum.data(),
              sum.size() * sizeof(float));
  words.Write(cl::kHandOverDelivered, &kSequence, sizeof(kSequence));
  const Floats before = Random(T * D);
  const ClBuffer x = Upload(before);
  kernels_.HandOverTake({memory, {x.get(), 0}, D, kSequence, kTurns});
  Add("hand-over", fmt::format("take {} rows of {}", T, D), DType::kF32, kFloatBound,
      Added(before, sum), Download(x, T * D));
}

// The sum that came by a copy; nothing is added where none came.
void SelfTestCases::AddDelivered(bool came) {
  constexpr std::int64_t T = 3, D = 130;
  const Floats before = Random(T * D), sum = Random(T * D);
  const ClBuffer x = Upload(before), dsum = Upload(sum);
  std::vector<std::uint32_t> words(cl::kHandOverControlBytes / sizeof(std::uint32_t));
  words[cl::kHandOverGo] = came ? 1 : 0;
  const ClBuffer control = Upload(words);
  kernels_.HandOverAdd({{dsum.get(), 0}, control.get(), {x.get(), 0}, D, T, D});
  Add("hand-over", came ? "add" : "no sum", DType::kF32, came ? kFloatBound : 0,
      came ? Added(before, sum) : Doubles(before.begin(), before.end()), Download(x, T * D));
}

// A step's words and rows, which are there or will not come.
void SelfTestCases::FeedStep(std::int64_t T, std::int64_t D, bool come) {
  constexpr std::int64_t kWords = 70, kAt = cl::kFeedIds, kRowsAt = kAt + 96;
  const Floats batch = Random(kWords), rows = Random(T * D), before = Random(T * D);
  const ClBuffer dbatch = Results(kWords), x = Upload(before);
  const ClBuffer control = Upload(std::vector<std::uint32_t>(cl::kFeedControlWords));
  const SharedWords words(device(), kRowsAt + T * D);
  words.Write(kAt, batch.data(), batch.size() * sizeof(float));
  words.Write(kRowsAt, rows.data(), rows.size() * sizeof(float));
  words.Write(come ? cl::kFeedFed : cl::kFeedDropped, &kSequence, sizeof(kSequence));
  kernels_.FeedTake({words.mem(), control.get(), kAt, kWords, dbatch.get(), kRowsAt, T * D, x.get(),
                     kSequence, kTurns});
  const Floats& then = come ? rows : before;
  Doubles want(then.begin(), then.end());
  want.insert(want.end(), batch.begin(), batch.end());
  Floats got = Download(x, T * D);
  const Floats got_batch = Download(dbatch, kWords);
  got.insert(got.end(), got_batch.begin(), got_batch.end());
  Add("step feed", fmt::format("{} rows of {}{}", T, D, come ? "" : " that do not come"),
      DType::kF32, 0, want, got);
}

// The places of the largest of two rows, and the number.
void SelfTestCases::PublishLargest() {
  constexpr std::int64_t kLogits = 5000;
  Floats logits = Random(2 * kLogits);
  const std::array<std::int64_t, 2> largest{77, kLogits - 1};
  for (std::int64_t row = 0; row < 2; ++row) logits[Size(row * kLogits + largest[Size(row)])] = 2;
  const ClBuffer dlogits = Upload(logits);
  const ClBuffer control = Upload(std::vector<std::uint32_t>(cl::kFeedControlWords));
  std::vector<cl::ArgmaxPart> parts(2 * cl::kArgmaxParts);
  const SharedWords words(device(), cl::kFeedIds + 2 * std::ssize(parts));
  kernels_.ArgmaxPublish({{dlogits.get(), 0}, 2, kLogits, words.mem(), control.get(), kSequence});
  std::uint32_t number = 0;
  words.Read(cl::kFeedChosen, &number, sizeof(number));
  words.Read(cl::kFeedIds, parts.data(), parts.size() * sizeof(cl::ArgmaxPart));
  Floats got{static_cast<float>(number)};
  for (auto row = parts.begin(); row != parts.end(); row += cl::kArgmaxParts) {
    got.push_back(static_cast<float>(
        std::max_element(row, row + cl::kArgmaxParts, [](const auto& a, const auto& b) {
          return a.value < b.value;
        })->id));
  }
  Add("step feed", "largest logits", DType::kF32, 0,
      {kSequence, static_cast<double>(largest[0]), static_cast<double>(largest[1])}, got);
}

void SelfTestCases::Feed() {
  FeedStep(2, 256, true);
  FeedStep(1, 256, false);
  FeedStep(5, kernels_.traits().hand_over_take_words / 4, true);  // in two launches
  PublishLargest();
}

void SelfTestCases::HandOver() {
  PublishAndTake(3, 256);
  PublishAndTake(2, 130);
  // More than the work-group that waits adds by itself, and than one publishes.
  PublishAndTake(5, kernels_.traits().hand_over_take_words / 4);
  AddDelivered(true);
  AddDelivered(false);
}

}  // namespace tandem
