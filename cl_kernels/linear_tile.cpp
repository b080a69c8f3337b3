#include "cl_kernels/linear_tile.h"

#include <algorithm>

#include "cl_kernels/matmul.h"

namespace tandem::cl {

double TileWork(const TileShape& shape, std::int64_t T, std::int64_t N, std::int64_t units) {
  const std::int64_t tiles = CeilDiv(T, shape.rows) * CeilDiv(N, shape.columns);
  return shape.cost * static_cast<double>(CeilDiv(tiles, units) * shape.rows * shape.columns);
}

const TileShape& ChooseTile(const Programs& programs, std::int64_t T, std::int64_t N) {
  const std::int64_t units = programs.device().info().compute_units;
  return *std::ranges::min_element(
      kTileShapes, {}, [&](const TileShape& shape) { return TileWork(shape, T, N, units); });
}

void LaunchLinearTile(Programs& programs, const TileShape& shape, const LinearArgs& a,
                      const LinearWords& words, std::int64_t heads) {
  const cl_kernel kernel = programs.Kernel(Program::kLinearTile, a.w.dtype, shape.kernel);
  Arguments(kernel).Set(a.x.buffer, a.w.buffer, a.y.buffer, words);
  Enqueue(programs, kernel, {CeilDiv(words.N, shape.columns), CeilDiv(a.T, shape.rows), heads},
          kTileGroup);
}

}  // namespace tandem::cl
