#include "cl_kernels/gemm.h"

#include <algorithm>

#include "cl_kernels/elementwise.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/rmsnorm.h"
#include "memory/error.h"
#include "memory/split_layout.h"

namespace tandem::cl {
namespace {

constexpr std::int64_t kItems = 256;
// Columns of y in a tile of gemm_linear and of gemm_linear_wide.
constexpr std::int64_t kColumns = 128;
constexpr std::int64_t kWideColumns = 256;

enum Mode : cl_int { kStore = 0, kAdd = 1, kSwiglu = 2 };

bool TakesColumns(DType type, std::int64_t K) {
  if (!IsDeviceFormat(type) || K <= 0) return false;
  return K % (type == DType::kBF16 ? 8 : 16) == 0 && K % BlockElements(type) == 0;
}

bool TakesWork(const Span& work) { return work.buffer != nullptr && work.offset % 4 == 0; }

bool HasMma(const Programs& programs) { return programs.traits().nv_compute >= 80; }

// y of `w` over the rows at `x`, in bf16.
void LaunchProduct(Programs& programs, const LinearArgs& a, const Weight& w, const Span& y,
                   std::int64_t y_stride, Mode mode) {
  const std::int64_t tile_rows = CeilDiv(a.T, kGemmTileRows);
  const std::int64_t halves = mode == kSwiglu ? 2 : 1;
  const std::int64_t wide = tile_rows * CeilDiv(w.rows * halves, kWideColumns);
  const bool use_wide = w.dtype == DType::kBF16 && wide >= programs.device().info().compute_units;
  const std::int64_t columns = (use_wide ? kWideColumns : kColumns) / halves;
  const cl_kernel kernel = programs.Kernel(use_wide ? Program::kGemmWide : Program::kGemm, w.dtype,
                                           use_wide ? "gemm_linear_wide" : "gemm_linear");
  const Weight& w2 = mode == kSwiglu ? a.w2 : w;
  Arguments(kernel).Set(a.work, w.buffer, cl_ulong{w.offset}, cl_ulong{w.scale_offset}, w2.buffer,
                        cl_ulong{w2.offset}, cl_ulong{w2.scale_offset}, y, y_stride,
                        static_cast<cl_int>(a.T), static_cast<cl_int>(w.rows),
                        static_cast<cl_int>(w.cols), cl_int{mode});
  Enqueue(programs, kernel, {tile_rows * CeilDiv(w.rows, columns), 1, 1}, kItems);
}

// Rows of x, after the norm where there is one.
Span NormedRows(Programs& programs, const LinearArgs& a, std::int64_t* stride) {
  *stride = a.x_stride;
  if (a.norm.w.buffer == nullptr) return a.x;
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
  *stride = a.norm.out_stride;
  return a.norm.out;
}

void LaunchGateUp(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const cl_kernel kernel = programs.Kernel(Program::kGemm, a.gate_up, "gemm_gate_up");
  Arguments(kernel).Set(a.slabs[static_cast<std::size_t>(slab)], slab, a.table, a.tiles, a.n_tiles,
                        a.pair_row, a.pair_weight, a.work, a.act, static_cast<cl_int>(a.D),
                        static_cast<cl_int>(a.F));
  Enqueue(programs, kernel, {CeilDiv(a.F, kColumns / 2), a.max_tiles, 1}, kItems);
}

void LaunchDown(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const cl_kernel kernel = programs.Kernel(Program::kGemm, a.down, "gemm_down");
  Arguments(kernel).Set(a.slabs[static_cast<std::size_t>(slab)], slab, a.table, a.tiles, a.n_tiles,
                        a.act, a.pair_out, static_cast<cl_int>(a.D), static_cast<cl_int>(a.F));
  Enqueue(programs, kernel, {CeilDiv(a.D, kColumns), a.max_tiles, 1}, kItems);
}

}  // namespace

void LaunchGemmRound(Programs& programs, DType weights, const Span& x, std::int64_t x_stride,
                     std::int64_t T, std::int64_t K, const Span& work) {
  TANDEM_CHECK(K % 8 == 0 && work.offset % 4 == 0);
  const std::int64_t eighths = T * K / 8;
  const cl_kernel kernel = programs.Kernel(Program::kGemm, weights, "gemm_round");
  Arguments(kernel).Set(x, x_stride, cl_int{Aligned16(x.offset, x_stride)}, static_cast<cl_int>(K),
                        eighths, work);
  Enqueue(programs, kernel, {CeilDiv(eighths, kItems), 1, 1}, kItems);
}

bool GemmTakes(const Programs& programs, const LinearArgs& a) {
  if (!HasMma(programs) || !a.bf16 || !TakesWork(a.work) || a.T < kGemmMinRows) return false;
  if (!TakesColumns(a.w.dtype, a.w.cols) || (a.swiglu && a.accumulate)) return false;
  return a.w2.buffer == nullptr || TakesColumns(a.w2.dtype, a.w2.cols);
}

void LaunchGemm(Programs& programs, const LinearArgs& a) {
  TANDEM_CHECK(GemmTakes(programs, a));
  std::int64_t stride = 0;
  const Span x = NormedRows(programs, a, &stride);
  LaunchGemmRound(programs, a.w.dtype, x, stride, a.T, a.w.cols, a.work);
  LaunchProduct(programs, a, a.w, a.y, a.y_stride,
                a.swiglu       ? kSwiglu
                : a.accumulate ? kAdd
                               : kStore);
  if (a.w2.buffer != nullptr && !a.swiglu) {
    LaunchProduct(programs, a, a.w2, a.y2, a.y2_stride, kStore);
  }
}

bool GemmTakes(const Programs& programs, const ExpertsArgs& a) {
  return HasMma(programs) && a.bf16 && TakesWork(a.work) && a.act.offset % 4 == 0 &&
         a.tile_rows == kGemmTileRows && TakesColumns(a.gate_up, a.D) && TakesColumns(a.down, a.F);
}

void LaunchExpertsGemm(Programs& programs, const ExpertsArgs& a) {
  TANDEM_CHECK(GemmTakes(programs, a));
  if (a.T <= 0 || a.max_tiles <= 0) return;
  const auto slabs = static_cast<cl_int>(a.slabs.size());
  LaunchGemmRound(programs, a.gate_up, a.x, a.x_stride, a.T, a.D, a.work);
  for (cl_int slab = 0; slab < slabs; ++slab) LaunchGateUp(programs, a, slab);
  for (cl_int slab = 0; slab < slabs; ++slab) LaunchDown(programs, a, slab);
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

}  // namespace tandem::cl
