#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/hand_over_events.h"
#include "runtime/hand_over_polled.h"
#include "tests/support/cl_fixture.h"

// What the tests of both kinds of hand-over share.
namespace tandem::test {

struct HandOverParam {
  HandOverKind kind;
  Shapes shapes;
};
inline void PrintTo(const HandOverParam& p, std::ostream* os) {
  *os << Name(p.kind) << (p.shapes == Shapes::kCpu ? "_cpu_shapes" : "_gpu_shapes");
}

inline constexpr HandOverParam kHandOverParams[] = {{HandOverKind::kPolled, Shapes::kCpu},
                                                    {HandOverKind::kPolled, Shapes::kGpu},
                                                    {HandOverKind::kEvents, Shapes::kCpu},
                                                    {HandOverKind::kEvents, Shapes::kGpu}};

// Every layer hands over x itself and adds the host's random sum to it, so that each hand-over
// shows, bit by bit, whether all before it were right.
class HandOverChain {
 public:
  HandOverChain(const ClDevice& device, std::int64_t D, std::int64_t K, std::int64_t max_rows)
      : device_(device),
        D_(D),
        K_(K),
        x_(RandomFloats(static_cast<std::size_t>(max_rows * D), 1)),
        ids_(static_cast<std::size_t>(max_rows * K + kLayers)),
        weights_(RandomFloats(ids_.size(), 2)),
        sums_(RandomFloats(x_.size() + kLayers, 3)) {
    std::mt19937 random(4);
    for (std::int32_t& id : ids_) id = static_cast<std::int32_t>(random());
    x_buffer_ = Upload(device, x_);
    ids_buffer_ = Upload(device, ids_);
    weights_buffer_ = Upload(device, weights_);
  }
  static constexpr std::int64_t kLayers = 40;  // of a step

  // What the enqueuing thread does. Ids and weights of layer l begin at l.
  void Enqueue(HandOver& hand_over, std::int64_t layers = kLayers) const {
    for (std::int64_t l = 0; l < layers; ++l) {
      hand_over.Publish({x_buffer_.get(), 0}, {ids_buffer_.get(), l}, {weights_buffer_.get(), l});
      hand_over.Take({x_buffer_.get(), 0}, D_);
    }
  }

  // The same, but each sum is taken after the next layer was published, so that the host has two
  // layers on their way.
  void EnqueueDeferred(HandOver& hand_over, std::int64_t layers = kLayers) const {
    for (std::int64_t l = 0; l < layers; ++l) {
      hand_over.Publish({x_buffer_.get(), 0}, {ids_buffer_.get(), l}, {weights_buffer_.get(), l});
      if (l > 0) hand_over.Take({x_buffer_.get(), 0}, D_);
    }
    hand_over.Take({x_buffer_.get(), 0}, D_);
  }

  // What the computing thread does for one layer: false where a word was wrong.
  bool Compute(HandOver& hand_over, std::int64_t T, std::int64_t l) {
    const HandOverInput input = hand_over.Await();
    bool right = true;
    for (std::int64_t i = 0; i < T * K_; ++i) {
      right = right && input.ids[i] == ids_[l + i] && input.weights[i] == weights_[l + i];
    }
    EXPECT_TRUE(right) << "ids or weights of layer " << l << " of " << T << " rows";
    float* sum = hand_over.sum();
    for (std::int64_t i = 0; i < T * D_; ++i) {
      if (input.h[i] != x_[i] && right) {
        ADD_FAILURE() << "layer " << l << " of " << T << " rows, word " << i << ": got "
                      << input.h[i] << ", want " << x_[i];
        right = false;
      }
      sum[i] = sums_[l + i];
      x_[i] += sum[i];
    }
    hand_over.Deliver();
    return right;
  }

  bool Step(HandOver& hand_over, std::int64_t T) {
    hand_over.BeginStep(T);
    std::thread enqueuing([&] { Enqueue(hand_over); });
    bool right = true;
    for (std::int64_t l = 0; l < kLayers; ++l) right = Compute(hand_over, T, l) && right;
    enqueuing.join();
    device_.Finish();
    hand_over.EndStep();
    return right && XIsRight();
  }

  // Layer l sees the sums of all layers before l - 1.
  bool DeferredStep(HandOver& hand_over, std::int64_t T) {
    hand_over.BeginStep(T);
    std::thread enqueuing([&] { EnqueueDeferred(hand_over); });
    std::vector<float> late(static_cast<std::size_t>(T * D_));  // the sum of the layer before
    bool right = true;
    for (std::int64_t l = 0; l < kLayers; ++l)
      right = ComputeDeferred(hand_over, T, l, late) && right;
    enqueuing.join();
    for (std::size_t i = 0; i < late.size(); ++i) x_[i] += late[i];
    device_.Finish();
    hand_over.EndStep();
    return right && XIsRight();
  }

  // x_ is what the device publishes for layer l; `late` comes with layer l + 1.
  bool ComputeDeferred(HandOver& hand_over, std::int64_t T, std::int64_t l,
                       std::vector<float>& late) {
    const HandOverInput input = hand_over.Await();
    bool right = true;
    for (std::int64_t i = 0; i < T * K_; ++i) {
      right = right && input.ids[i] == ids_[l + i] && input.weights[i] == weights_[l + i];
    }
    for (std::int64_t i = 0; i < T * D_; ++i) right = right && input.h[i] == x_[i];
    EXPECT_TRUE(right) << "input of layer " << l << " of " << T << " rows";
    for (std::int64_t i = 0; i < T * D_; ++i) {
      hand_over.sum()[i] = sums_[l + i];
      x_[i] += late[i];
      late[i] = sums_[l + i];
    }
    hand_over.Deliver();
    return right;
  }

  // x on the device is what the host has computed.
  bool XIsRight() const { return Download<float>(device_, x_buffer_, x_.size()) == x_; }

 private:
  const ClDevice& device_;
  std::int64_t D_, K_;
  std::vector<float> x_;
  std::vector<std::int32_t> ids_;
  std::vector<float> weights_, sums_;
  ClBuffer x_buffer_, ids_buffer_, weights_buffer_;
};

class HandOverTest : public ClTest, public ::testing::WithParamInterface<HandOverParam> {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    if (GetParam().shapes == Shapes::kGpu && device().info().max_work_group_size < 256) {
      GTEST_SKIP() << device().info().name << " runs no work-groups of 256";
    }
    if (polled() && !ClSharedBuffer::Allocate(device(), 64)) {
      GTEST_SKIP() << device().info().name << " has no shared memory";
    }
  }
  bool polled() const { return GetParam().kind == HandOverKind::kPolled; }
  std::string name() const { return device().info().name; }

  cl::Kernels& kernels() const {
    static std::unique_ptr<cl::Kernels> of_shapes[2];
    auto& kernels = of_shapes[static_cast<int>(GetParam().shapes)];
    if (kernels) return *kernels;
    const int nv_compute = cl::TraitsOf(device()).nv_compute;
    cl::DeviceTraits traits =
        GetParam().shapes == Shapes::kCpu ? cl::CpuTraits(4) : cl::GpuTraits(4);
    traits.nv_compute = nv_compute;  // the fences of this device
    traits.hand_over_words = 1024;   // so that small steps take several work-groups
    traits.hand_over_take_words = 1024;
    kernels = std::make_unique<cl::Kernels>(device(), "", traits);
    return *kernels;
  }
  std::unique_ptr<HandOver> Make(const HandOverShape& shape, std::uint64_t wait_turns = 0) const {
    return MakeHandOver(device(), kernels(), shape, GetParam().kind, wait_turns);
  }
  std::unique_ptr<HandOver> MakeWithWatchdog(const HandOverShape& shape, Seconds watchdog) const {
    if (!polled()) {
      return std::make_unique<EventHandOver>(device(), kernels(), shape, watchdog);
    }
    const auto words = cl::HandOverWords(shape.max_rows, shape.D, shape.K);
    return std::make_unique<PolledHandOver>(
        device(), kernels(), shape,
        *ClSharedBuffer::Allocate(device(), static_cast<std::size_t>(words * 4)), 0, watchdog);
  }
};

}  // namespace tandem::test
