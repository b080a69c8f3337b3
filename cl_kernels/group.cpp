#include "cl_kernels/group.h"

#include <algorithm>

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

// As in group.cl.
constexpr std::int64_t kMaxEntries = 513;
constexpr std::int64_t kFewPairs = 64;

// A work-item places a pair; where a work-group is one item, one goes through all.
std::int64_t Groups(const Programs& programs, std::int64_t pairs) {
  const std::int64_t group = programs.traits().group;
  if (group == 1) return 1;
  return std::min<std::int64_t>(CeilDiv(pairs, group), programs.device().info().compute_units);
}

}  // namespace

void LaunchGroup(Programs& programs, const GroupArgs& a) {
  TANDEM_CHECK(a.E + (a.shared ? 1 : 0) <= kMaxEntries);
  TANDEM_CHECK(a.tile_rows > 0 && a.tiles.offset % 4 == 0);
  if (a.T <= 0) return;
  const std::int64_t pairs = a.T * (a.K + (a.shared ? 1 : 0));
  const bool few = pairs <= kFewPairs;
  const cl_kernel kernel =
      programs.Kernel(Program::kRows, DType::kF32, few ? "group_few_pairs" : "group_pairs");
  Arguments(kernel).Set(a.ids, a.weights, a.table, a.tiles, a.n_tiles, a.pair_row, a.pair_weight,
                        a.token_pairs, static_cast<cl_int>(a.T), static_cast<cl_int>(a.K),
                        static_cast<cl_int>(a.E), cl_int{a.shared},
                        static_cast<cl_int>(a.tile_rows));
  Enqueue(programs, kernel, {few ? 1 : Groups(programs, pairs), 1, 1}, programs.traits().group);
}

}  // namespace tandem::cl
