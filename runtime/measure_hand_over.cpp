#include "runtime/measure_hand_over.h"

#include <algorithm>

#include "runtime/busy_kernel.h"
#include "runtime/clock.h"

namespace tandem {
namespace {

constexpr int kLayers = 32;  // of a step
constexpr int kSteps = 7;
// The device's own part of a layer: as long as a large model's, so that the launches of a layer are
// enqueued while the one before computes.
constexpr double kWorkUs = 60;

// Steps of layers that compute for kWorkUs each.
class EmptyLayers {
 public:
  EmptyLayers(DeviceSide& side, HandOver& hand_over, const HandOverShape& shape)
      : side_(side),
        hand_over_(hand_over),
        D_(shape.D),
        x_(Zeros(shape.D)),
        choice_(Zeros(shape.K)),
        busy_(side.device) {}

  // Seconds of a layer that the host has nothing to do for but to answer.
  double HandedOver() {
    side_.device.Finish();
    hand_over_.BeginStep(1);
    const double start = Now();
    Enqueue();
    for (int layer = 0; layer < kLayers; ++layer) {
      if (layer + 1 < kLayers) Enqueue();
      hand_over_.Await();
      std::fill_n(hand_over_.sum(), D_, 0.0F);
      hand_over_.Deliver();
    }
    side_.device.Finish();
    const double seconds = Now() - start;
    hand_over_.EndStep();
    return seconds / kLayers;
  }

  // With two tiny launches in the hand-over's place.
  double Alone() {
    side_.device.Finish();
    const double start = Now();
    for (int layer = 0; layer < kLayers; ++layer) {
      busy_.Run(kWorkUs);
      for (int i = 0; i < 2; ++i) side_.kernels.Add({{x_.get(), 0}, {choice_.get(), 0}, 1});
      side_.device.Flush();
    }
    side_.device.Finish();
    return (Now() - start) / kLayers;
  }

 private:
  ClBuffer Zeros(std::int64_t values) const {
    ClBuffer zeros = side_.device.Allocate(static_cast<std::size_t>(values) * sizeof(float));
    side_.device.Zero(zeros.get(), 0, zeros.bytes());
    return zeros;
  }
  void Enqueue() {
    busy_.Run(kWorkUs);
    hand_over_.Publish({x_.get(), 0}, {choice_.get(), 0}, {choice_.get(), 0});
    hand_over_.Take({x_.get(), 0}, D_);
    side_.device.Flush();
  }

  DeviceSide& side_;
  HandOver& hand_over_;
  std::int64_t D_;
  ClBuffer x_, choice_;
  BusyKernel busy_;
};

}  // namespace

double MeasureHandOver(DeviceSide& side, HandOver& hand_over, const HandOverShape& shape) {
  constexpr double kLeast = 1e-7;  // where the two cannot be told apart
  EmptyLayers layers(side, hand_over, shape);
  double with = 1e9;
  double without = 1e9;
  for (int step = 0; step < kSteps; ++step) {
    with = std::min(with, layers.HandedOver());
    without = std::min(without, layers.Alone());
  }
  return std::max(with - without, kLeast);
}

}  // namespace tandem
