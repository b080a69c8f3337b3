#include "cl_kernels/step_feed.h"

#include <algorithm>

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

cl_kernel Kernel(Programs& programs, std::string_view name) {
  return programs.Kernel(Program::kRows, DType::kF32, name);
}

}  // namespace

void LaunchFeedTake(Programs& programs, const FeedTakeArgs& a) {
  const DeviceTraits& traits = programs.traits();
  const cl_long words = a.words, rows = a.rows;
  const auto n_words = static_cast<cl_int>(a.n_words), n = static_cast<cl_int>(a.n);
  const auto step = static_cast<cl_int>(a.step);
  const cl_ulong turns = a.turns;
  if (a.n <= traits.hand_over_take_words) {
    const cl_kernel kernel = Kernel(programs, "feed_take");
    Arguments(kernel).Set(a.shared, words, n_words, a.batch, rows, a.x, n, step, turns);
    Enqueue(programs, kernel, {1, 1, 1}, traits.hand_over_group);
    return;
  }
  const cl_kernel wait = Kernel(programs, "feed_wait");
  Arguments(wait).Set(a.shared, a.control, step, turns);
  Enqueue(programs, wait, {1, 1, 1}, 1);
  constexpr std::int64_t kMostGroups = 256;
  const cl_kernel copy = Kernel(programs, "feed_copy");
  Arguments(copy).Set(a.shared, words, n_words, a.batch, rows, a.x, n, a.control);
  Enqueue(programs, copy,
          {std::min(CeilDiv(std::max(a.n, a.n_words), traits.hand_over_words), kMostGroups), 1, 1},
          traits.hand_over_group);
}

void LaunchArgmaxPublish(Programs& programs, const ArgmaxPublishArgs& a) {
  const cl_kernel kernel = Kernel(programs, "argmax_publish");
  Arguments(kernel).Set(a.logits, static_cast<cl_int>(a.V), a.shared, static_cast<cl_int>(kFeedIds),
                        a.control, static_cast<cl_int>(a.step));
  Enqueue(programs, kernel, {kArgmaxParts, a.rows, 1}, programs.traits().group);
}

}  // namespace tandem::cl
