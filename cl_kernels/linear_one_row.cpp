#include "cl_kernels/linear_one_row.h"

#include "cl_kernels/linear_words.h"
#include "cl_kernels/matmul.h"

namespace tandem::cl {
namespace {

bool TakesOneRow(Programs& programs, const LinearArgs& a) {
  const DeviceTraits& traits = programs.traits();
  const bool second = a.w2.buffer == nullptr ||
                      TakesOneRow(programs, a.w2.dtype, a.w2.cols, a.w2.offset | a.w2.scale_offset);
  return a.T == 1 && second && a.x.offset % 4 == 0 && (!a.swiglu || traits.wide_rows % 2 == 0) &&
         TakesOneRow(programs, a.w.dtype, a.w.cols, a.w.offset | a.w.scale_offset);
}

void LaunchOne(Programs& programs, const LinearArgs& a, std::string_view name,
               const std::function<void(Arguments&)>& rest) {
  LinearWords words = WordsOf(a);
  const std::int64_t outputs = programs.traits().wide_rows / (a.swiglu ? 2 : 1);
  const std::int64_t sets = CeilDiv(words.N, outputs) + (a.swiglu ? 0 : CeilDiv(words.N2, outputs));
  const FewRowsLaunch launch = ChooseOneRow(programs, a.w.dtype, sets, words.K);
  words.ksplit = launch.ksplit;
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.w.dtype, name);
  Arguments arguments(kernel);
  arguments.Set(a.x.buffer, a.w.buffer, Or(a.w2.buffer, a.w.buffer), a.y.buffer,
                Or(a.y2.buffer, a.y.buffer), Or(a.norm.w.buffer, a.x.buffer),
                Or(a.norm.out.buffer, a.y.buffer), words);
  if (rest) rest(arguments);
  Enqueue(programs, kernel, {launch.groups, 1, 1}, programs.traits().group_size());
}

bool TakesOneRowMma(Programs& programs, const LinearArgs& a) {
  const bool second = a.w2.buffer == nullptr ||
                      (a.w2.dtype == a.w.dtype && TakesOneRowMma(programs, a.w2.dtype, a.w2.cols,
                                                                 a.w2.offset | a.w2.scale_offset));
  const bool norm = a.norm.w.buffer == nullptr || a.w.cols <= kOneRowMmaSpan;
  return a.T == 1 && second && norm && a.x.offset % 4 == 0 &&
         TakesOneRowMma(programs, a.w.dtype, a.w.cols, a.w.offset | a.w.scale_offset);
}

std::int64_t TileGroups(std::int64_t rows) { return CeilDiv(rows, kOneRowTileRows); }

bool TakesTile(const Programs& programs, const LinearArgs& a, const LinearWords& words) {
  return !a.swiglu && TakesOneRowTile(programs, a.w.dtype, words.N + words.N2, 2) &&
         words.K <= kOneRowTileSpan;
}

// linear_one_mma, or linear_one_tile.
void LaunchOneFused(Programs& programs, const LinearArgs& a, const LinearWords& words) {
  const std::int64_t rows = words.N + words.N2;
  const bool tile = TakesTile(programs, a, words);
  const cl_kernel kernel =
      programs.Kernel(Program::kOneRowMma, a.w.dtype, tile ? "linear_one_tile" : "linear_one_mma");
  Arguments(kernel).Set(a.x.buffer, a.w.buffer, Or(a.w2.buffer, a.w.buffer), a.y.buffer,
                        Or(a.y2.buffer, a.y.buffer), Or(a.norm.w.buffer, a.x.buffer),
                        Or(a.norm.out.buffer, a.y.buffer), words);
  Enqueue(programs, kernel, {tile ? TileGroups(rows) : OneRowMmaGroups(programs, rows), 1, 1},
          tile ? programs.traits().group_size() : kOneRowMmaItems);
}

void LaunchOneMma(Programs& programs, const LinearArgs& a, LinearWords words) {
  const bool fused = a.w2.buffer != nullptr || a.norm.w.buffer != nullptr;
  if (fused || TakesTile(programs, a, words)) return LaunchOneFused(programs, a, words);
  words.ksplit = OneRowMmaParts(programs, a.w.dtype, words.N, words.K);
  const bool parts = words.ksplit > 1;
  const cl_kernel kernel = programs.Kernel(Program::kOneRowMma, a.w.dtype,
                                           parts ? "linear_one_parts" : "linear_one_plain");
  Arguments arguments(kernel);
  arguments.Set(a.x.buffer, a.w.buffer, a.y.buffer);
  if (parts) arguments.Set(programs.Arrivals());
  arguments.Set(words);
  Enqueue(programs, kernel, {OneRowMmaGroups(programs, words.N * words.ksplit), 1, 1},
          kOneRowMmaItems);
}

}  // namespace

bool LaunchedOneRow(Programs& programs, const LinearArgs& a) {
  if (!TakesOneRowMma(programs, a)) return LaunchedOneRow(programs, a, "linear_one", nullptr);
  LaunchOneMma(programs, a, WordsOf(a));
  return true;
}

bool LaunchedOneRow(Programs& programs, const LinearArgs& a, std::string_view kernel,
                    const std::function<void(Arguments&)>& rest) {
  if (!TakesOneRow(programs, a)) return false;
  LaunchOne(programs, a, kernel, rest);
  return true;
}

}  // namespace tandem::cl
