#include "cl_kernels/linear.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cl_kernels/gemm.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/linear_one_row.h"
#include "cl_kernels/linear_tile.h"
#include "cl_kernels/linear_words.h"
#include "cl_kernels/matmul.h"
#include "cl_kernels/rmsnorm.h"
#include "memory/split_layout.h"

namespace tandem::cl {
namespace {

void LaunchFew(Programs& programs, const LinearArgs& a, LinearWords words, std::int64_t heads) {
  const std::int64_t rows = RowsAtOnce(programs.traits(), a.T);
  const std::int64_t parts = CeilDiv(a.T, rows);
  const std::int64_t N = words.N + (a.swiglu ? 0 : words.N2);
  const FewRowsLaunch launch =
      ChooseFewRows(programs, a.w.dtype, rows, N, words.K, a.swiglu ? 2 : 1, parts * heads);
  words.ksplit = launch.ksplit;
  constexpr std::string_view kNames[] = {"linear_few_1", "linear_few_2", "linear_few_4",
                                         "linear_few_8"};
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.w.dtype,
                                           kNames[rows == 1   ? 0
                                                  : rows == 2 ? 1
                                                  : rows == 4 ? 2
                                                              : 3]);
  Arguments(kernel).Set(a.x.buffer, a.w.buffer, Or(a.w2.buffer, a.w.buffer), a.y.buffer,
                        Or(a.y2.buffer, a.y.buffer), Or(a.norm.w.buffer, a.x.buffer),
                        Or(a.norm.out.buffer, a.y.buffer), words);
  Enqueue(programs, kernel, {launch.groups, parts, heads}, programs.traits().group_size());
}

// Columns that a warp of linear_batch.cl takes in a step.
std::int64_t BatchStep(DType type) {
  if (type == DType::kBF16 || type == DType::kF16 || type == DType::kF32) return 32;
  return type == DType::kF8E4M3 || type == DType::kQ8_0 ? 64 : 128;
}

// Tiles of 16 weight rows that a warp of linear_batch.cl takes, eights of rows of x, and warps that
// share weight rows.
struct BatchLaunch {
  std::int64_t tiles = 2;
  std::int64_t eights = 1;
  std::int64_t ksplit = 1;
  std::int64_t groups = 1;
};
constexpr std::int64_t kBatchItems = 256;
constexpr std::int64_t kBatchWarps = 8;
constexpr std::int64_t kBatchChunk = 1024;  // columns of x for one eight of rows

// Weight rows of a work-group.
std::int64_t BatchRows(const BatchLaunch& launch) {
  return launch.tiles * 16 * (kBatchWarps / launch.ksplit);
}

// Tiles that registers hold: the side arrays of a format take more of them.
std::int64_t MostTiles(DType type) {
  if (type == DType::kQ5_K || type == DType::kQ6_K) return 3;
  return type == DType::kQ4_K || type == DType::kQ5_0 ? 4 : 5;
}

// Clocks of a column of x, of an H100's compute units: each takes some 48 bytes a clock, all
// together 24 each from the cache and 13 each from memory. A work-group fills a compute unit.
double BatchClocks(const BatchLaunch& launch, double units, double row_bytes, double rows) {
  const double work = static_cast<double>(BatchRows(launch)) * row_bytes +
                      static_cast<double>(launch.eights) * 8 * sizeof(float);
  const auto groups = static_cast<double>(launch.groups);
  const double unit = std::ceil(groups / units) * work / 48;
  const double cache = groups * work / (units * 24);
  const double memory = rows * row_bytes / (units * 13);
  return std::max({unit, cache, memory}) + (unit + cache) / 16;
}

BatchLaunch ChooseBatch(const Programs& programs, const LinearArgs& a) {
  const auto units = static_cast<double>(programs.device().info().compute_units);
  const std::int64_t second = a.w2.buffer == nullptr ? 0 : a.w2.rows;
  const auto rows = static_cast<double>(a.w.rows + second);
  const double bytes =
      static_cast<double>(SplitDataBytes(a.w.dtype, 1, 1024) + SplitSideBytes(a.w.dtype, 1, 1024)) /
      1024;
  BatchLaunch best;
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t eights = 1; eights <= 2; ++eights) {
    for (std::int64_t tiles = MostTiles(a.w.dtype); tiles >= 2; --tiles) {
      const std::int64_t most = kBatchChunk / eights / BatchStep(a.w.dtype);
      for (std::int64_t ksplit = 1; ksplit <= std::min(kBatchWarps, most); ksplit *= 2) {
        BatchLaunch launch{tiles, eights, ksplit, 0};
        if (a.swiglu && tiles * (kBatchWarps / ksplit) % 2 != 0) continue;
        const std::int64_t outputs = BatchRows(launch) / (a.swiglu ? 2 : 1);
        launch.groups = CeilDiv(a.T, 8 * eights) *
                        (CeilDiv(a.w.rows, outputs) + (a.swiglu ? 0 : CeilDiv(second, outputs)));
        const double clocks = BatchClocks(launch, units, bytes, rows);
        if (clocks < least) best = launch;
        least = std::min(least, clocks);
      }
    }
  }
  return best;
}

bool TakesBatch(Programs& programs, const LinearArgs& a) {
  const DeviceTraits& traits = programs.traits();
  if (!a.bf16 || !IsDeviceFormat(a.w.dtype)) return false;
  if (a.T < traits.batch_rows_min || a.T > traits.batch_rows_max || a.w.cols <= 0) return false;
  if (a.w.cols % (BatchStep(a.w.dtype) == 32 ? 8 : 16) != 0) return false;
  return programs.NvCompute(Program::kLinearBatch, a.w.dtype) >= 80;
}

void LaunchBatch(Programs& programs, const LinearArgs& a, LinearWords words) {
  const BatchLaunch launch = ChooseBatch(programs, a);
  words.ksplit = launch.ksplit;
  constexpr std::string_view kNames[4][2] = {{"linear_batch_2x1", "linear_batch_2x2"},
                                             {"linear_batch_3x1", "linear_batch_3x2"},
                                             {"linear_batch_4x1", "linear_batch_4x2"},
                                             {"linear_batch_5x1", "linear_batch_5x2"}};
  const cl_kernel kernel = programs.Kernel(Program::kLinearBatch, a.w.dtype,
                                           kNames[launch.tiles - 2][launch.eights - 1]);
  Arguments(kernel).Set(a.x.buffer, a.w.buffer, Or(a.w2.buffer, a.w.buffer), a.y.buffer,
                        Or(a.y2.buffer, a.y.buffer), words);
  Enqueue(programs, kernel, {launch.groups, 1, 1}, kBatchItems);
}

void LaunchMany(Programs& programs, const LinearArgs& a, const LinearWords& words,
                std::int64_t heads) {
  if (!a.swiglu) {
    return LaunchLinearTile(programs, ChooseTile(programs, a.T, words.N * heads), a, words, heads);
  }
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.w.dtype, "linear_many_swiglu");
  Arguments(kernel).Set(a.x.buffer, a.w.buffer, Or(a.w2.buffer, a.w.buffer), a.y.buffer, words);
  Enqueue(programs, kernel, {CeilDiv(words.N, kTileColumns), CeilDiv(a.T, kTileRows), heads},
          kTileGroup);
}

// The same product over x', which a launch of its own makes.
LinearArgs NormFirst(Programs& programs, LinearArgs a) {
  RmsNormArgs norm;
  norm.x = a.x;
  norm.x_stride = a.x_stride;
  norm.w = a.norm.w;
  norm.y = a.norm.out;
  norm.y_stride = a.norm.out_stride;
  norm.T = a.T;
  norm.D = a.w.cols;
  norm.eps = a.norm.eps;
  LaunchRmsNorm(programs, norm);
  a.x = a.norm.out;
  a.x_stride = a.norm.out_stride;
  a.norm = {};
  return a;
}

// Every work-group reads x twice for the norm; for more rows that costs more than a launch.
constexpr std::int64_t kFusedNormRows = 2;

bool FusesNorm(const DeviceTraits& traits, const LinearArgs& a) {
  return traits.team > 1 && a.T <= std::min(kFusedNormRows, traits.few_rows_max);
}

// The second matrix of a pair by itself.
LinearArgs Second(const LinearArgs& a) {
  LinearArgs second = a;
  second.w = a.w2;
  second.y = a.y2;
  second.y_stride = a.y2_stride;
  second.w2 = {};
  second.accumulate = false;
  return second;
}

void LaunchTransposed(Programs& programs, const HeadLinearArgs& a) {
  if (a.T <= 0 || a.w.cols <= 0 || a.heads <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.w.dtype, "head_linear_transposed");
  Arguments(kernel).Set(a.x, a.x_row_stride, a.x_head_stride, a.w.buffer, a.w.offset,
                        a.w.scale_offset, a.w.cols, a.w.rows, a.head_rows, a.row0, a.N, a.y,
                        a.y_row_stride, a.y_head_stride, a.T);
  Enqueue(programs, kernel,
          {CeilDiv(a.w.cols, 8 * programs.traits().team), CeilDiv(a.T, programs.traits().max_rows),
           a.heads},
          programs.traits().group_size());
}

// A unit that has a tile takes as long for it whatever the others have. There the few-rows form
// needs kFewCost times as long for a product as full tiles do.
bool FewIsQuicker(const Programs& programs, const LinearArgs& a) {
  constexpr double kFewCost = 3;
  const std::int64_t N = a.w.rows + (a.swiglu || a.w2.buffer == nullptr ? 0 : a.w2.rows);
  const std::int64_t units = programs.device().info().compute_units;
  const double work = TileWork(ChooseTile(programs, a.T, N), a.T, N, units);
  return kFewCost * static_cast<double>(a.T * N) < static_cast<double>(units) * work;
}

// Of a narrow matrix (a router's) the tiles for many rows fill half a device or less.
bool IsFew(const Programs& programs, const LinearArgs& a) {
  constexpr std::int64_t kNarrow = 64;
  const DeviceTraits& traits = programs.traits();
  const bool narrow = traits.team > 1 && a.w.rows <= kNarrow && a.w2.buffer == nullptr;
  return narrow || a.T <= traits.few_rows_max ||
         (traits.few_rows_fill && FewIsQuicker(programs, a));
}

void LaunchWhole(Programs& programs, const LinearArgs& a);

// Whether x is rounded to e4m3 for products in f32: gemm.h's forms do it on matrix units.
bool RoundsToE4m3(const Programs& programs, const LinearArgs& a) {
  const bool f8 =
      a.w.dtype == DType::kF8E4M3 && (a.w2.buffer == nullptr || a.w2.dtype == DType::kF8E4M3);
  return a.fp8 && a.bf16 && f8 && a.work.buffer != nullptr && a.T > kGemmMinRows &&
         a.w.cols % 8 == 0 && programs.traits().nv_compute == 0;
}

// The scratch holds half the rows in f32: two turns.
void LaunchRounded(Programs& programs, LinearArgs a) {
  if (a.norm.w.buffer != nullptr) a = NormFirst(programs, a);
  const std::int64_t half = CeilDiv(a.T, 2);
  LinearArgs part = a;
  part.x = a.work;
  part.x_stride = a.w.cols;
  part.work = {};
  part.bf16 = part.fp8 = false;
  for (std::int64_t t = 0; t < a.T; t += half) {
    part.T = std::min(half, a.T - t);
    LaunchE4m3Values(programs, {a.x.buffer, a.x.offset + t * a.x_stride}, a.x_stride, part.T,
                     a.w.cols, a.work);
    part.y.offset = a.y.offset + t * a.y_stride;
    part.y2.offset = a.y2.offset + t * a.y2_stride;
    LaunchWhole(programs, part);
  }
}

void LaunchWhole(Programs& programs, const LinearArgs& a) {
  if (a.T <= 0 || a.w.rows <= 0) return;
  const bool pair = a.w2.buffer != nullptr;
  TANDEM_CHECK(!pair || a.w2.cols == a.w.cols);
  TANDEM_CHECK(!a.swiglu || (pair && a.w2.dtype == a.w.dtype && a.w2.rows == a.w.rows));
  const bool batch = TakesBatch(programs, a);
  if (!batch && LaunchedGemm(programs, a)) return;
  if (RoundsToE4m3(programs, a)) return LaunchRounded(programs, a);
  const bool few = IsFew(programs, a);
  if (a.norm.w.buffer != nullptr && (batch || !FusesNorm(programs.traits(), a))) {
    return LaunchWhole(programs, NormFirst(programs, a));
  }
  if (pair && !a.swiglu && ((!few && !batch) || a.w2.dtype != a.w.dtype)) {
    LinearArgs first = a.norm.w.buffer == nullptr ? a : NormFirst(programs, a);
    LaunchWhole(programs, Second(first));
    first.w2 = {};
    return LaunchWhole(programs, first);
  }
  if (batch) return LaunchBatch(programs, a, WordsOf(a));
  if (LaunchedOneRow(programs, a)) return;
  if (few) return LaunchFew(programs, a, WordsOf(a), 1);
  LaunchMany(programs, a, WordsOf(a), 1);
}

// The same for the outputs behind those of the first parts, over the x' that these made. Without a
// buffer in w only w2 is left.
LinearArgs Rest(LinearArgs a) {
  a.y.offset += a.w.rows;
  if (!a.swiglu) a.y2.offset += a.w2.rows;
  for (Weight* w : {&a.w, &a.w2}) *w = w->next == nullptr ? Weight{} : *w->next;
  if (a.norm.w.buffer == nullptr) return a;
  a.x = a.norm.out;
  a.x_stride = a.norm.out_stride;
  a.norm = {};
  return a;
}

}  // namespace

void LaunchLinear(Programs& programs, const LinearArgs& a) {
  for (LinearArgs rest = a; rest.w.buffer != nullptr || rest.w2.buffer != nullptr;
       rest = Rest(rest)) {
    LinearArgs part = rest.w.buffer == nullptr ? Second(rest) : rest;
    part.w.next = part.w2.next = nullptr;
    LaunchWhole(programs, part);
  }
}

bool LaunchedOneRouted(Programs& programs, const LinearArgs& a,
                       const std::function<void(Arguments&)>& rest) {
  const bool plain =
      a.w.dtype == DType::kF32 || a.w.dtype == DType::kBF16 || a.w.dtype == DType::kF16;
  const bool norm = a.norm.w.buffer == nullptr || FusesNorm(programs.traits(), a);
  if (!plain || !norm || a.w.next != nullptr || a.w2.buffer != nullptr) return false;
  return LaunchedOneRow(programs, a, "linear_one_routed", [&](Arguments& arguments) {
    arguments.Set(programs.Arrivals());
    rest(arguments);
  });
}

namespace {

// Where matrix units take many rows, f32 is left to matrices that are kept in it, as a router's.
bool TakesTiles(const DeviceTraits& traits, DType type, bool bf16) {
  return traits.team > 1 && (!bf16 || type == DType::kF32 || traits.nv_compute < 80);
}

}  // namespace

void PrepareLinear(Programs& programs, DType type, bool bf16) {
  programs.Build(Program::kMatmul, type);
  if (TakesTiles(programs.traits(), type, bf16)) programs.Build(Program::kLinearTile, type);
  if (HasOneRowMma(type)) programs.Build(Program::kOneRowMma, type);
  if (bf16 && IsDeviceFormat(type)) programs.Build(Program::kLinearBatch, type);
}

void LaunchHeadLinear(Programs& programs, const HeadLinearArgs& a) {
  TANDEM_CHECK(a.w.next == nullptr);
  if (a.transposed) return LaunchTransposed(programs, a);
  if (a.T <= 0 || a.N <= 0 || a.heads <= 0) return;
  LinearArgs linear;
  linear.x = a.x;
  linear.x_stride = a.x_row_stride;
  linear.w = a.w;
  linear.y = a.y;
  linear.y_stride = a.y_row_stride;
  linear.T = a.T;
  LinearWords words = WordsOf(linear);
  words.x_head_stride = a.x_head_stride;
  words.x_aligned = words.x_aligned != 0 && a.x_head_stride % 4 == 0 ? 1 : 0;
  words.head_rows = a.head_rows;
  words.row0 = a.row0;
  words.N = a.N;
  words.y_head_stride = a.y_head_stride;
  const bool few = a.T <= programs.traits().few_rows_max;
  few ? LaunchFew(programs, linear, words, a.heads) : LaunchMany(programs, linear, words, a.heads);
}

}  // namespace tandem::cl
