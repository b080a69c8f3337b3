#pragma once

#include <array>
#include <string_view>

#include "cl_kernels/linear_words.h"

namespace tandem::cl {

// A tile of linear_tile.cl, and what one of its products costs beside those of the largest.
struct TileShape {
  std::string_view kernel;
  std::int64_t rows;
  std::int64_t columns;
  double cost;
};
inline constexpr std::array kTileShapes{TileShape{"linear_tile_128x128", 128, 128, 1.0},
                                        TileShape{"linear_tile_128x64", 128, 64, 1.1},
                                        TileShape{"linear_tile_64x64", 64, 64, 1.2}};

// What the compute unit with the most tiles has to do, in products of the largest tile.
double TileWork(const TileShape& shape, std::int64_t T, std::int64_t N, std::int64_t units);
// The shape for which that is least.
const TileShape& ChooseTile(const Programs& programs, std::int64_t T, std::int64_t N);

// y = x w^T of many rows, in f32; neither norm nor second matrix.
void LaunchLinearTile(Programs& programs, const TileShape& shape, const LinearArgs& a,
                      const LinearWords& words, std::int64_t heads);

}  // namespace tandem::cl
