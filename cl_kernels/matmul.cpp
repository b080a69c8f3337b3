#include "cl_kernels/matmul.h"

#include <algorithm>
#include <limits>

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

// As in few_rows.cl and units.cl.
constexpr std::int64_t kStageFloats = 8192;

std::int64_t UnitWeights(DType type) {
  if (type == DType::kF8E4M3 || type == DType::kQ8_0) return 16;
  return IsBlockFormat(type) ? 32 : 8;
}

// Steps of a team below which what it shares with others costs more than it brings.
constexpr std::int64_t kLeastSteps = 4;

// Work-groups of a compute unit that its registers and local memory hold at once.
constexpr std::int64_t kResident = 4;

// What one_row_mma.cl takes the columns by; 0: it does not have the format.
std::int64_t PieceWeights(DType type) {
  switch (type) {
    case DType::kF8E4M3:
    case DType::kQ8_0:
      return 128;
    case DType::kQ4_0:
    case DType::kMXFP4:
    case DType::kQ4_K:
      return 256;
    default:
      return 0;
  }
}

}  // namespace

std::int64_t RowsAtOnce(const DeviceTraits& traits, std::int64_t T) {
  return T <= 2 ? T : T <= 4 ? 4 : traits.max_rows;
}

FewRowsLaunch ChooseFewRows(const Programs& programs, DType type, std::int64_t rows, std::int64_t N,
                            std::int64_t K, std::int64_t wrows, std::int64_t batch) {
  const DeviceTraits& traits = programs.traits();
  const std::int64_t outputs = traits.teams * traits.wide_rows / wrows;  // of a group, unshared
  if (traits.team == 1) return {CeilDiv(N, outputs), 1};
  const std::int64_t resident = kResident * programs.device().info().compute_units;
  const std::int64_t step = UnitWeights(type) * traits.team;
  const std::int64_t staged = kStageFloats / (rows * step);  // steps that local memory holds
  const std::int64_t steps = CeilDiv(K, step);
  const std::int64_t most = std::min({std::int64_t{traits.teams}, steps, staged});
  const bool stays = K <= staged * step;
  // Sharing rows makes more and smaller pieces of work: as many as fill the device, and where x
  // stays in local memory more of them, which share out more evenly; else each brings x there
  // again.
  const auto fills = [&](std::int64_t ksplit) {
    return CeilDiv(N, outputs / ksplit) * batch >= resident;
  };
  std::int64_t ksplit = 1;
  while (2 * ksplit <= most && (!fills(ksplit) || (stays && 2 * ksplit * kLeastSteps <= steps))) {
    ksplit *= 2;
  }
  const std::int64_t blocks = CeilDiv(N, outputs / ksplit);
  if (!stays) return {blocks, ksplit};
  const std::int64_t rounds = CeilDiv(blocks * batch, resident);
  return {CeilDiv(blocks, rounds), ksplit};
}

bool TakesOneRow(Programs& programs, DType type, std::int64_t K, std::uint64_t offset) {
  const DeviceTraits& traits = programs.traits();
  const std::int64_t step = UnitWeights(type) * traits.team;
  return traits.one_row && traits.team == 32 && offset % 16 == 0 && K % UnitWeights(type) == 0 &&
         CeilDiv(K, step) * step <= kStageFloats &&
         programs.NvCompute(Program::kMatmul, type) >= 70;
}

FewRowsLaunch ChooseOneRow(const Programs& programs, DType type, std::int64_t sets,
                           std::int64_t K) {
  constexpr std::int64_t kGroups = 2;  // of a compute unit at once
  const DeviceTraits& traits = programs.traits();
  const std::int64_t warps = kGroups * programs.device().info().compute_units * traits.teams;
  const std::int64_t steps = CeilDiv(K, UnitWeights(type) * traits.team);
  std::int64_t ksplit = 1;
  while (2 * ksplit <= std::min<std::int64_t>(traits.teams, steps) && 2 * ksplit * sets <= warps) {
    ksplit *= 2;
  }
  const std::int64_t groups = CeilDiv(sets, traits.teams / ksplit);
  const std::int64_t rounds = CeilDiv(groups * traits.teams, warps);
  return {ksplit > 1 ? groups : CeilDiv(groups, rounds), ksplit};
}

bool HasOneRowMma(DType type) { return PieceWeights(type) > 0; }

bool TakesOneRowMma(Programs& programs, DType type, std::int64_t K, std::uint64_t offset) {
  const DeviceTraits& traits = programs.traits();
  return traits.one_row_mma && traits.team == 32 && traits.teams == 8 && HasOneRowMma(type) &&
         offset % 16 == 0 && K > 0 && K % PieceWeights(type) == 0 &&
         programs.NvCompute(Program::kOneRowMma, type) >= 80;
}

std::int64_t OneRowMmaGroups(const Programs& programs, std::int64_t rows) {
  constexpr std::int64_t kLeastRows = 4;
  const std::int64_t units = programs.device().info().compute_units;
  return std::min(units, CeilDiv(rows, kLeastRows));
}

// The one by which the work-group with the most to do has the fewest pieces.
std::int64_t OneRowMmaParts(const Programs& programs, DType type, std::int64_t rows,
                            std::int64_t K) {
  constexpr std::int64_t kMost = 8;
  const std::int64_t units = programs.device().info().compute_units;
  const std::int64_t least = CeilDiv(K, kOneRowMmaSpan);
  const std::int64_t most = std::min({kMost, units, programs.kept_sums() / rows});
  if (least == 1 || units > 2 * Programs::kArrivals) return 1;
  std::int64_t best = 1;
  std::int64_t fewest = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t parts = least; parts <= most; ++parts) {
    const std::int64_t tiles = CeilDiv(CeilDiv(rows, units / parts), kOneRowTileRows);
    const std::int64_t pieces = tiles * CeilDiv(K, parts * PieceWeights(type));
    if (pieces >= fewest) continue;
    best = parts;
    fewest = pieces;
  }
  return best;
}

bool TakesOneRowTile(const Programs& programs, DType type, std::int64_t rows,
                     std::int64_t of_unit) {
  const std::int64_t units = programs.device().info().compute_units;
  return (type == DType::kF8E4M3 || type == DType::kQ8_0) &&
         CeilDiv(rows, kOneRowTileRows) <= of_unit * units;
}

}  // namespace tandem::cl
