#include "runtime/measure_hand_over.h"

#include <algorithm>

#include "runtime/clock.h"

namespace tandem {
namespace {

constexpr int kLayers = 32;  // of a step
constexpr int kSteps = 7;

}  // namespace

double MeasureHandOver(DeviceSide& side, HandOver& hand_over, const HandOverShape& shape) {
  const ClBuffer x = side.device.Allocate(static_cast<std::size_t>(shape.D) * sizeof(float));
  const ClBuffer choice = side.device.Allocate(static_cast<std::size_t>(shape.K) * sizeof(float));
  side.device.Zero(x.get(), 0, x.bytes());
  side.device.Zero(choice.get(), 0, choice.bytes());
  double best = 1e9;
  for (int step = 0; step < kSteps; ++step) {
    side.device.Finish();
    hand_over.BeginStep(1);
    const double start = Now();
    for (int layer = 0; layer < kLayers; ++layer) {
      hand_over.Publish({x.get(), 0}, {choice.get(), 0}, {choice.get(), 0});
      hand_over.Take({x.get(), 0}, shape.D);
      side.device.Flush();
      hand_over.Await();
      std::fill_n(hand_over.sum(), shape.D, 0.0F);
      hand_over.Deliver();
    }
    side.device.Finish();
    best = std::min(best, (Now() - start) / kLayers);
    hand_over.EndStep();
  }
  return best;
}

}  // namespace tandem
