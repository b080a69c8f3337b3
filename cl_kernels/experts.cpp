#include "cl_kernels/experts.h"

#include <algorithm>

#include "cl_kernels/elementwise.h"
#include "cl_kernels/gemm.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/matmul.h"

namespace tandem::cl {
namespace {

constexpr std::int64_t kFewTileRows = 8;
// Down and the sum are one launch up to so many rows. Each row reads the weights for itself.
constexpr std::int64_t kSumRows = 2;

// As experts_t in experts.cl.
struct ExpertWords {
  cl_long D, F, T, C;
  cl_long table_offset, tiles_offset, n_tiles_offset;
  cl_long pair_row_offset, pair_weight_offset, token_pairs_offset;
  cl_long x_offset, x_stride, x_aligned;
  cl_long act_offset, act_aligned, out_offset;
  cl_long y_offset, y_stride;
  cl_long slab, ksplit;
  cl_long chosen;
};
static_assert(sizeof(ExpertWords) == 21 * 8);

constexpr std::int64_t kEntryWords = sizeof(ExpertEntry) / 4;
constexpr std::int64_t kTileWords = sizeof(ExpertTile) / 4;

ExpertWords WordsOf(const ExpertsArgs& a) {
  ExpertWords words = {};
  words.D = a.D;
  words.F = a.F;
  words.T = a.T;
  words.C = a.C;
  words.table_offset = a.table.offset / kEntryWords;
  words.tiles_offset = a.tiles.offset / kTileWords;
  words.n_tiles_offset = a.n_tiles.offset;
  words.pair_row_offset = a.pair_row.offset;
  words.pair_weight_offset = a.pair_weight.offset;
  words.token_pairs_offset = a.token_pairs.offset;
  words.x_offset = a.x.offset;
  words.x_stride = a.x_stride;
  words.x_aligned = Aligned16(a.x.offset, a.x_stride) ? 1 : 0;
  words.act_offset = a.act.offset;
  words.act_aligned = Aligned16(a.act.offset, a.F) ? 1 : 0;
  words.out_offset = a.pair_out.offset;
  words.y_offset = a.y.offset;
  words.y_stride = a.y_stride;
  words.ksplit = 1;
  words.chosen = a.shared_made ? 1 : 0;
  return words;
}

// Work-groups that go through the blocks of all tiles in turn.
std::int64_t TileGroups(const Programs& programs, const FewRowsLaunch& launch,
                        std::int64_t max_tiles) {
  constexpr std::int64_t kPerUnit = 16;
  const std::int64_t most = kPerUnit * programs.device().info().compute_units;
  return std::min(launch.groups * max_tiles, most);
}

void LaunchGateUp(Programs& programs, const ExpertsArgs& a, std::int64_t slab) {
  const DeviceTraits& traits = programs.traits();
  const bool many = a.tile_rows > kFewTileRows;
  const std::string_view name = many       ? "experts_gate_up_many"
                                : a.T == 1 ? "experts_gate_up_1"
                                           : "experts_gate_up_few";
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.gate_up, name);
  ExpertWords words = WordsOf(a);
  words.slab = slab;
  const std::int64_t rows = a.T == 1 ? 1 : traits.max_rows;
  const FewRowsLaunch launch = ChooseFewRows(programs, a.gate_up, rows, a.F, a.D, 2, a.max_tiles);
  words.ksplit = launch.ksplit;
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), a.table.buffer, a.tiles.buffer,
                        a.n_tiles.buffer, a.pair_row.buffer, a.pair_weight.buffer, a.x.buffer,
                        a.act.buffer, words);
  if (many) {
    return Enqueue(programs, kernel,
                   {CeilDiv(a.F, kTileColumns), CeilDiv(a.tile_rows, kTileRows), a.max_tiles},
                   kTileGroup);
  }
  const std::int64_t parts = a.T == 1 ? 1 : CeilDiv(a.tile_rows, traits.max_rows);
  Enqueue(programs, kernel, {TileGroups(programs, launch, a.max_tiles), parts, 1},
          traits.group_size());
}

void LaunchDown(Programs& programs, const ExpertsArgs& a, std::int64_t slab) {
  const DeviceTraits& traits = programs.traits();
  const bool many = a.tile_rows > kFewTileRows;
  const cl_kernel kernel =
      programs.Kernel(Program::kMatmul, a.down, many ? "experts_down_many" : "experts_down_few");
  ExpertWords words = WordsOf(a);
  words.slab = slab;
  const FewRowsLaunch launch =
      ChooseFewRows(programs, a.down, traits.max_rows, a.D, a.F, 1, a.max_tiles);
  words.ksplit = launch.ksplit;
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), a.table.buffer, a.tiles.buffer,
                        a.n_tiles.buffer, a.act.buffer, a.pair_out.buffer, words);
  if (many) {
    return Enqueue(programs, kernel,
                   {CeilDiv(a.D, kTileColumns), CeilDiv(a.tile_rows, kTileRows), a.max_tiles},
                   kTileGroup);
  }
  Enqueue(programs, kernel,
          {TileGroups(programs, launch, a.max_tiles), CeilDiv(a.tile_rows, traits.max_rows), 1},
          traits.group_size());
}

void LaunchDownSum(Programs& programs, const ExpertsArgs& a) {
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.down, "experts_down_sum");
  ExpertWords words = WordsOf(a);
  // Each expert's act goes to local memory by itself: as for an x that does not stay there.
  const FewRowsLaunch launch = ChooseFewRows(programs, a.down, 1, a.D, a.F, 1, a.T);
  words.ksplit = launch.ksplit;
  const std::int64_t outputs =
      programs.traits().teams / launch.ksplit * programs.traits().wide_rows;
  Arguments(kernel).Set(SlabAt(a, 0), SlabAt(a, 1), a.table.buffer, a.tiles.buffer,
                        a.n_tiles.buffer, a.token_pairs.buffer, a.act.buffer, a.y.buffer, words);
  Enqueue(programs, kernel, {CeilDiv(a.D, outputs), a.T, 1}, programs.traits().group_size());
}

// One row of x, whose every expert has a tile with one pair: see one_row.cl.
constexpr std::int64_t kOneTiles = 32;

bool TakesOneRow(Programs& programs, const ExpertsArgs& a) {
  const DeviceTraits& traits = programs.traits();
  return a.T == 1 && a.sum && std::ssize(a.slabs) <= kSlabsAtOnce && a.max_tiles <= kOneTiles &&
         traits.wide_rows % 2 == 0 && a.x.offset % 4 == 0 && a.act.offset % 4 == 0 &&
         a.F % 4 == 0 && TakesOneRow(programs, a.gate_up, a.D, 0) &&
         TakesOneRow(programs, a.down, a.F, 0);
}

void LaunchOneRow(Programs& programs, const ExpertsArgs& a) {
  const DeviceTraits& traits = programs.traits();
  const cl_kernel gate_up = programs.Kernel(Program::kMatmul, a.gate_up, "experts_gate_up_one");
  const std::int64_t sets = CeilDiv(a.F, traits.wide_rows / 2) * a.max_tiles;
  constexpr std::int64_t kGroups = 2;  // of a compute unit at once
  const std::int64_t groups = std::min<std::int64_t>(
      CeilDiv(sets, traits.teams), kGroups * programs.device().info().compute_units);
  Arguments(gate_up).Set(SlabAt(a, 0), SlabAt(a, 1), a.table.buffer, a.tiles.buffer,
                         a.n_tiles.buffer, a.pair_row.buffer, a.pair_weight.buffer, a.x.buffer,
                         a.act.buffer, WordsOf(a));
  Enqueue(programs, gate_up, {groups, 1, 1}, traits.group_size());
  const cl_kernel down = programs.Kernel(Program::kMatmul, a.down, "experts_down_one");
  Arguments(down).Set(SlabAt(a, 0), SlabAt(a, 1), a.table.buffer, a.tiles.buffer, a.n_tiles.buffer,
                      a.act.buffer, a.y.buffer, WordsOf(a));
  Enqueue(programs, down, {CeilDiv(a.D, traits.teams * traits.wide_rows), 1, 1},
          traits.group_size());
}

// As kOneTiles, of one_row_mma.cl.
constexpr std::int64_t kOneMmaTiles = 16;

void LaunchOneRowMma(Programs& programs, const ExpertsArgs& a) {
  const std::int64_t tiles = a.max_tiles - (a.shared_made ? 1 : 0);
  const cl_mem table = a.shared_made ? a.pair_out.buffer : a.table.buffer;
  const cl_kernel gate_up =
      programs.Kernel(Program::kOneRowMma, a.gate_up, "experts_gate_up_one_mma");
  Arguments(gate_up).Set(SlabAt(a, 0), SlabAt(a, 1), table, a.tiles.buffer, a.n_tiles.buffer,
                         a.pair_weight.buffer, a.x.buffer, a.act.buffer, WordsOf(a));
  Enqueue(programs, gate_up, {OneRowMmaGroups(programs, 2 * a.F * tiles), 1, 1}, kOneRowMmaItems);
  const bool tile = TakesOneRowTile(programs, a.down, a.D, 1);
  ExpertWords words = WordsOf(a);
  words.ksplit = OneRowMmaParts(programs, a.down, a.D, a.C * a.F);
  const cl_kernel down = programs.Kernel(Program::kOneRowMma, a.down,
                                         tile ? "experts_down_one_tile" : "experts_down_one_mma");
  Arguments arguments(down);
  arguments.Set(SlabAt(a, 0), SlabAt(a, 1), table, a.tiles.buffer, a.n_tiles.buffer, a.act.buffer,
                a.y.buffer);
  if (!tile) arguments.Set(programs.Arrivals());
  arguments.Set(words);
  const std::int64_t groups = tile ? CeilDiv(a.D, kOneRowTileRows) : OneRowMmaGroups(programs, a.D);
  Enqueue(programs, down, {groups, 1, 1}, tile ? programs.traits().group_size() : kOneRowMmaItems);
}

void LaunchSum(Programs& programs, const ExpertsArgs& a) {
  ExpertCombineArgs sum;
  sum.pair_out = a.pair_out;
  sum.token_pairs = a.token_pairs;
  sum.T = a.T;
  sum.K = a.C;
  sum.D = a.D;
  sum.y = a.y;
  sum.y_stride = a.y_stride;
  LaunchExpertCombine(programs, sum);
}

}  // namespace

bool TakesOneRowMma(Programs& programs, const ExpertsArgs& a) {
  return a.T == 1 && a.sum && std::ssize(a.slabs) <= kSlabsAtOnce && a.max_tiles <= kOneMmaTiles &&
         a.x.offset % 4 == 0 && a.act.offset % 4 == 0 &&
         TakesOneRowMma(programs, a.gate_up, a.D, 0) &&
         TakesOneRowMma(programs, a.down, a.F_unit == 0 ? a.F : a.F_unit, 0);
}

std::int64_t ExpertTileRows(const DeviceTraits& traits, std::int64_t T, std::int64_t C,
                            std::int64_t E, bool bf16) {
  const bool gemm = bf16 && traits.nv_compute >= 80;
  // With matrix units a tile costs hardly more than reading the weights.
  const std::int64_t few_pairs = gemm ? kFewTileRows : traits.few_rows_max;
  if (E <= 0 || T * C / E <= few_pairs) return kFewTileRows;
  return gemm ? kGemmTileRows : kTileRows;
}

void LaunchExperts(Programs& programs, const ExpertsArgs& a) {
  TANDEM_CHECK(a.table.offset % kEntryWords == 0 && a.tiles.offset % kTileWords == 0);
  if (a.T <= 0 || a.max_tiles <= 0 || a.slabs.empty()) return;
  if (LaunchedGemm(programs, a)) return;
  if (TakesOneRowMma(programs, a)) return LaunchOneRowMma(programs, a);
  TANDEM_CHECK(!a.shared_made);
  if (TakesOneRow(programs, a)) return LaunchOneRow(programs, a);
  const auto slabs = std::ssize(a.slabs);
  for (std::int64_t slab = 0; slab < slabs; slab += kSlabsAtOnce) LaunchGateUp(programs, a, slab);
  if (a.sum && a.T <= kSumRows && slabs <= kSlabsAtOnce) return LaunchDownSum(programs, a);
  for (std::int64_t slab = 0; slab < slabs; slab += kSlabsAtOnce) LaunchDown(programs, a, slab);
  if (a.sum) LaunchSum(programs, a);
}

}  // namespace tandem::cl
