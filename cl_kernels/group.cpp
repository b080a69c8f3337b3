#include "cl_kernels/group.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

constexpr std::int64_t kMaxEntries = 513;  // as in group.cl

}  // namespace

void LaunchGroup(Programs& programs, const GroupArgs& a) {
  TANDEM_CHECK(a.E + (a.shared ? 1 : 0) <= kMaxEntries);
  TANDEM_CHECK(a.tile_rows > 0 && a.tiles.offset % 4 == 0);
  if (a.T <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "group_pairs");
  Arguments(kernel).Set(a.ids, a.weights, a.table, a.tiles, a.n_tiles, a.pair_row, a.pair_weight,
                        a.token_pairs, static_cast<cl_int>(a.T), static_cast<cl_int>(a.K),
                        static_cast<cl_int>(a.E), cl_int{a.shared},
                        static_cast<cl_int>(a.tile_rows));
  Enqueue(programs, kernel, {1, 1, 1}, programs.traits().group);
}

}  // namespace tandem::cl
