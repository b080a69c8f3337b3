#include "cl_kernels/hand_over.h"

#include <algorithm>

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

constexpr std::int64_t kMostGroups = 256;

std::int64_t Groups(const Programs& programs, std::int64_t words) {
  return std::clamp<std::int64_t>(CeilDiv(words, programs.traits().hand_over_words), 1,
                                  kMostGroups);
}

cl_kernel Kernel(Programs& programs, std::string_view name) {
  return programs.Kernel(Program::kRows, DType::kF32, name);
}

}  // namespace

void LaunchHandOverPublish(Programs& programs, const HandOverPublishArgs& a) {
  const cl_kernel kernel = Kernel(programs, "hand_over_publish");
  const HandOverMemory& m = a.memory;
  Arguments(kernel).Set(a.h, a.ids, a.weights, m.shared, m.payload, m.control, m.T, m.D, m.K,
                        static_cast<cl_int>(a.sequence));
  Enqueue(programs, kernel, {Groups(programs, m.T * (m.D + 2 * m.K)), 1, 1},
          programs.traits().hand_over_group);
}

void LaunchHandOverTake(Programs& programs, const HandOverTakeArgs& a) {
  const HandOverMemory& m = a.memory;
  const cl_int sequence = static_cast<cl_int>(a.sequence);
  const cl_ulong turns = a.turns;
  const std::int64_t sum = m.payload + HandOverInputWords(m.T, m.D, m.K);
  if (m.T * m.D <= programs.traits().hand_over_take_words) {
    const cl_kernel kernel = Kernel(programs, "hand_over_take");
    Arguments(kernel).Set(m.shared, sum, m.control, a.x, a.x_stride, m.T, m.D, sequence, turns);
    Enqueue(programs, kernel, {1, 1, 1}, programs.traits().hand_over_group);
    return;
  }
  const cl_kernel kernel = Kernel(programs, "hand_over_wait");
  Arguments(kernel).Set(m.shared, m.control, sequence, turns);
  Enqueue(programs, kernel, {1, 1, 1}, 1);
  LaunchHandOverAdd(programs, {{m.shared, sum}, m.control, a.x, a.x_stride, m.T, m.D});
}

void LaunchHandOverAdd(Programs& programs, const HandOverAddArgs& a) {
  const cl_kernel kernel = Kernel(programs, "hand_over_add");
  Arguments(kernel).Set(a.sum, a.control, a.x, a.x_stride, a.T, a.D);
  Enqueue(programs, kernel, {Groups(programs, a.T * a.D), 1, 1}, programs.traits().hand_over_group);
}

}  // namespace tandem::cl
