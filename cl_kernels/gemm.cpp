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
constexpr std::int64_t kF8Columns = 128;      // that have a scale
constexpr std::int64_t kColumns = 128;        // of a tile of weights of the experts
constexpr std::int64_t kTurnedMeanRows = 64;  // of an expert, up to which gemm_turned.cl is faster

enum Mode : cl_int { kStore = 0, kAdd = 1, kSwiglu = 2, kBf16 = 3 };

bool TakesColumns(DType type, std::int64_t K) {
  if (!IsDeviceFormat(type) || K <= 0) return false;
  return K % (type == DType::kBF16 ? 8 : 16) == 0 && K % BlockElements(type) == 0;
}

bool TakesWork(const Span& work) { return work.buffer != nullptr && work.offset % 4 == 0; }

bool UsesWgmma(Programs& programs, Program program, DType type) {
  return programs.traits().wgmma_products && programs.NvCompute(program, type) == 90;
}

bool MayHaveMma(const Programs& programs, DType type) {
  return programs.NvComputeSoFar(Program::kGemm, type) >= 80;
}

bool HasMma(Programs& programs, DType type) {
  return programs.NvCompute(Program::kGemm, type) >= 80;
}

// The form that a product takes, and the columns of its weights' tile.
struct Form {
  Program program;
  const char* kernel;
  std::int64_t rows;
  std::int64_t columns;
};
constexpr Form kWide{Program::kGemmWide, "gemm_linear_wide", 256, 128};
constexpr Form kF8Wgmma{Program::kGemmF8Wgmma, "gemm_f8_wgmma", 256, 128};
constexpr Form kF8Narrow{Program::kGemmF8Wgmma, "gemm_f8_wgmma_narrow", 128, 128};
constexpr Form kF8Mma{Program::kGemmF8Mma, "gemm_f8_mma", 256, 128};
constexpr Form kWgmma{Program::kGemmWgmma, "gemm_linear_wgmma", 256, 128};

// The program with the tiles of 128 x 128 for weights of a type. bf16 weights pass by cp.async, for
// which mma.sync's tile is made.
Program TileProgram(Programs& programs, DType type) {
  return type != DType::kBF16 && UsesWgmma(programs, Program::kGemmTilesWgmma, type)
             ? Program::kGemmTilesWgmma
             : Program::kGemm;
}

bool IsF8(const Form& form) {
  return form.program == kF8Wgmma.program || form.program == kF8Mma.program;
}

bool HasF8Mma(Programs& programs) {
  return programs.NvCompute(kF8Mma.program, DType::kF8E4M3) >= 89;
}

Form FormOf(Programs& programs, const Weight& w, std::int64_t T, bool swiglu, bool fp8) {
  const std::int64_t tiles =
      CeilDiv(T, kWide.rows) * CeilDiv(w.rows * (swiglu ? 2 : 1), kWide.columns);
  // Codes are counted in 32 bits.
  if (fp8 && w.dtype == DType::kF8E4M3 && w.rows * w.cols <= std::int64_t{UINT32_MAX}) {
    if (UsesWgmma(programs, kF8Wgmma.program, w.dtype)) {
      return tiles >= programs.device().info().compute_units ? kF8Wgmma : kF8Narrow;
    }
    if (HasF8Mma(programs)) return kF8Mma;
  }
  if (w.dtype != DType::kBF16 || tiles < programs.device().info().compute_units) {
    return {TileProgram(programs, w.dtype), "gemm_linear", 128, 128};
  }
  if (UsesWgmma(programs, kWgmma.program, w.dtype)) return kWgmma;
  if (programs.NvCompute(kWide.program, w.dtype) >= 80) return kWide;
  return {Program::kGemm, "gemm_linear", 128, 128};
}

// y of `w` over the rows in a.work.
void LaunchProduct(Programs& programs, const Form& form, const LinearArgs& a, const Weight& w,
                   const Span& y, std::int64_t y_stride, Mode mode) {
  const cl_kernel kernel = programs.Kernel(form.program, w.dtype, form.kernel);
  const Weight& w2 = mode == kSwiglu ? a.w2 : w;
  Arguments(kernel).Set(a.work, w.buffer, cl_ulong{w.offset}, cl_ulong{w.scale_offset}, w2.buffer,
                        cl_ulong{w2.offset}, cl_ulong{w2.scale_offset}, y, y_stride,
                        static_cast<cl_int>(a.T), static_cast<cl_int>(w.rows),
                        static_cast<cl_int>(w.cols), cl_int{mode});
  const std::int64_t columns = form.columns / (mode == kSwiglu ? 2 : 1);
  Enqueue(programs, kernel, {CeilDiv(a.T, form.rows) * CeilDiv(w.rows, columns), 1, 1}, kItems);
}

void Round(Programs& programs, DType weights, const Span& x, std::int64_t x_stride, std::int64_t T,
           std::int64_t K, const Span& work) {
  TANDEM_CHECK(K % 8 == 0 && work.offset % 4 == 0);
  const std::int64_t eighths = T * K / 8;
  const cl_kernel kernel = programs.Kernel(TileProgram(programs, weights), weights, "gemm_round");
  Arguments(kernel).Set(x, x_stride, cl_int{Aligned16(x.offset, x_stride)}, static_cast<cl_int>(K),
                        eighths, work);
  Enqueue(programs, kernel, {CeilDiv(eighths, kItems), 1, 1}, kItems);
}

void LaunchE4m3(Programs& programs, const char* name, const Span& x, std::int64_t stride,
                std::int64_t T, std::int64_t K, const Span& out) {
  const cl_kernel kernel = programs.Kernel(Program::kE4m3, DType::kF8E4M3, name);
  Arguments(kernel).Set(x, stride, cl_int{Aligned16(x.offset, stride)}, static_cast<cl_int>(T),
                        static_cast<cl_int>(K), out);
  Enqueue(programs, kernel, {CeilDiv(T, 16) * CeilDiv(K, kF8Columns), 1, 1}, kItems);
}

void RoundToE4m3(Programs& programs, const LinearArgs& a, const Span& x, std::int64_t stride) {
  LaunchE4m3(programs, "e4m3_fragments", x, stride, a.T, a.w.cols, a.work);
}

// x, in bf16, to a.work in the form's order.
void RoundFor(Programs& programs, const Form& form, const LinearArgs& a, const Span& x,
              std::int64_t stride) {
  if (IsF8(form)) return RoundToE4m3(programs, a, x, stride);
  if (form.program != Program::kGemmWgmma && form.program != Program::kGemmWide) {
    return Round(programs, a.w.dtype, x, stride, a.T, a.w.cols, a.work);
  }
  const std::int64_t items = CeilDiv(a.T, 16) * CeilDiv(a.w.cols, 32) * 2 * 32;
  const cl_kernel kernel = programs.Kernel(Program::kGemm, a.w.dtype, "gemm_round_fragments");
  Arguments(kernel).Set(x, stride, static_cast<cl_int>(a.T), static_cast<cl_int>(a.w.cols), a.work);
  Enqueue(programs, kernel, {CeilDiv(items, kItems), 1, 1}, kItems);
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

// Whether weights are the first operand of wgmma (gemm_turned.cl): where the mean expert has few
// rows, of at most max_tiles' entries. Both products or none, because x and act lie in another
// order; act's rows are whole blocks of 64 columns in bf16.
bool Turned(Programs& programs, const ExpertsArgs& a) {
  const std::int64_t pairs = a.T * a.C;
  const std::int64_t entries = a.max_tiles - pairs / a.tile_rows;
  const auto turned = [&](DType type) {
    return type != DType::kBF16 && UsesWgmma(programs, Program::kGemmTurned, type);
  };
  return pairs <= kTurnedMeanRows * entries && CeilDiv(a.F, 64) * 64 <= 2 * a.F &&
         turned(a.gate_up) && turned(a.down);
}

int TurnedColumns(DType type) { return type == DType::kQ4_K ? 256 : 64; }

void RoundTurned(Programs& programs, const ExpertsArgs& a) {
  const std::int64_t items = a.T * CeilDiv(a.D, 64) * 8;
  const cl_kernel kernel =
      programs.Kernel(TileProgram(programs, a.gate_up), a.gate_up, "gemm_round_turned");
  Arguments(kernel).Set(a.x, a.x_stride, static_cast<cl_int>(a.T), static_cast<cl_int>(a.D),
                        cl_int{TurnedColumns(a.gate_up)}, a.work);
  Enqueue(programs, kernel, {CeilDiv(items, kItems), 1, 1}, kItems);
}

void LaunchTurnedGateUp(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const cl_kernel kernel = programs.Kernel(Program::kGemmTurned, a.gate_up, "gemm_gate_up_turned");
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), slab, a.table, a.tiles, a.n_tiles,
                        a.pair_row, a.pair_weight, a.work, a.act, static_cast<cl_int>(a.D),
                        static_cast<cl_int>(a.F), cl_int{TurnedColumns(a.down)});
  Enqueue(programs, kernel, {CeilDiv(a.F, kColumns / 2), a.max_tiles, 1}, kItems);
}

void LaunchTurnedDown(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const cl_kernel kernel = programs.Kernel(Program::kGemmTurned, a.down, "gemm_down_turned");
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), slab, a.table, a.tiles, a.n_tiles,
                        a.act, a.pair_out, static_cast<cl_int>(a.D), static_cast<cl_int>(a.F));
  Enqueue(programs, kernel, {CeilDiv(a.D, kColumns), a.max_tiles, 1}, kItems);
}

// Whether both products of the experts take e4m3 for e4m3: codes of act lie behind its bf16.
bool RoundsExperts(Programs& programs, const ExpertsArgs& a) {
  constexpr std::int64_t kLeastF = 256;
  return a.fp8 && a.gate_up == DType::kF8E4M3 && a.down == DType::kF8E4M3 && a.F >= kLeastF &&
         a.F % 8 == 0 && a.D % 8 == 0 && a.D * a.F <= std::int64_t{UINT32_MAX} &&
         UsesWgmma(programs, kF8Wgmma.program, DType::kF8E4M3);
}

Span CodesOfAct(const ExpertsArgs& a) {
  return {a.act.buffer, a.act.offset + CeilDiv(a.T * a.C * a.F / 2, 4) * 4};
}

void LaunchF8GateUp(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const cl_kernel kernel = programs.Kernel(kF8Wgmma.program, a.gate_up, "gemm_gate_up_f8");
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), slab, a.table, a.tiles, a.n_tiles,
                        a.pair_row, a.pair_weight, a.work, a.act, static_cast<cl_int>(a.T),
                        static_cast<cl_int>(a.D), static_cast<cl_int>(a.F));
  Enqueue(programs, kernel, {CeilDiv(a.F, kColumns / 2), a.max_tiles, 1}, kItems);
}

void LaunchF8Down(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const auto pairs = static_cast<cl_int>(a.T * a.C);
  const cl_kernel round = programs.Kernel(kF8Wgmma.program, a.down, "gemm_act_f8");
  Arguments(round).Set(SlabAt(a, slab), SlabAt(a, slab + 1), slab, a.table, a.tiles, a.n_tiles,
                       a.act, CodesOfAct(a), pairs, static_cast<cl_int>(a.F));
  Enqueue(programs, round, {CeilDiv(a.F, kF8Columns) * (kGemmTileRows / 16), a.max_tiles, 1},
          kItems);
  const cl_kernel kernel = programs.Kernel(kF8Wgmma.program, a.down, "gemm_down_f8");
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), slab, a.table, a.tiles, a.n_tiles,
                        CodesOfAct(a), cl_long{pairs}, a.pair_out, static_cast<cl_int>(a.D),
                        static_cast<cl_int>(a.F));
  Enqueue(programs, kernel, {CeilDiv(a.D, kColumns), a.max_tiles, 1}, kItems);
}

void LaunchGateUp(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const cl_kernel kernel =
      programs.Kernel(TileProgram(programs, a.gate_up), a.gate_up, "gemm_gate_up");
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), slab, a.table, a.tiles, a.n_tiles,
                        a.pair_row, a.pair_weight, a.work, a.act, static_cast<cl_int>(a.D),
                        static_cast<cl_int>(a.F));
  Enqueue(programs, kernel, {CeilDiv(a.F, kColumns / 2), a.max_tiles, 1}, kItems);
}

void LaunchDown(Programs& programs, const ExpertsArgs& a, cl_int slab) {
  const cl_kernel kernel = programs.Kernel(TileProgram(programs, a.down), a.down, "gemm_down");
  Arguments(kernel).Set(SlabAt(a, slab), SlabAt(a, slab + 1), slab, a.table, a.tiles, a.n_tiles,
                        a.act, a.pair_out, static_cast<cl_int>(a.D), static_cast<cl_int>(a.F));
  Enqueue(programs, kernel, {CeilDiv(a.D, kColumns), a.max_tiles, 1}, kItems);
}

}  // namespace

void LaunchE4m3Values(Programs& programs, const Span& x, std::int64_t x_stride, std::int64_t T,
                      std::int64_t K, const Span& out) {
  LaunchE4m3(programs, "e4m3_values", x, x_stride, T, K, out);
}

void LaunchGemmRound(Programs& programs, DType weights, const Span& x, std::int64_t x_stride,
                     std::int64_t T, std::int64_t K, const Span& work) {
  Round(programs, weights, x, x_stride, T, K, work);
}

bool RoundsFp8(Programs& programs) {
  return programs.traits().nv_compute == 0 ||
         UsesWgmma(programs, kF8Wgmma.program, DType::kF8E4M3) || HasF8Mma(programs);
}

void PrepareGemm(Programs& programs, DType type, bool fp8) {
  if (fp8 && type == DType::kF8E4M3) {
    programs.Build(Program::kE4m3, type);
    if (!UsesWgmma(programs, kF8Wgmma.program, type)) HasF8Mma(programs);
  }
  if (!IsDeviceFormat(type) || !HasMma(programs, type)) return;
  programs.Build(TileProgram(programs, type), type);
  if (type != DType::kBF16 && UsesWgmma(programs, Program::kGemmTurned, type)) {
    programs.Build(Program::kGemmTurned, type);
  }
  if (type == DType::kBF16 && !UsesWgmma(programs, kWgmma.program, type)) {
    programs.Build(kWide.program, type);
  }
}

bool GemmTakes(const Programs& programs, const LinearArgs& a) {
  if (!a.bf16 || !TakesWork(a.work) || a.T < kGemmMinRows) return false;
  const auto takes = [&](const Weight& w) {
    return TakesColumns(w.dtype, w.cols) && MayHaveMma(programs, w.dtype);
  };
  if (!takes(a.w) || (a.swiglu && a.accumulate)) return false;
  return a.w2.buffer == nullptr || takes(a.w2);
}

bool LaunchedGemm(Programs& programs, const LinearArgs& a) {
  if (!GemmTakes(programs, a) || !HasMma(programs, a.w.dtype)) return false;
  if (a.w2.buffer != nullptr && !HasMma(programs, a.w2.dtype)) return false;
  LaunchGemm(programs, a);
  return true;
}

void LaunchGemm(Programs& programs, const LinearArgs& a) {
  TANDEM_CHECK(GemmTakes(programs, a));
  std::int64_t stride = 0;
  const Span x = NormedRows(programs, a, &stride);
  const Form form = FormOf(programs, a.w, a.T, a.swiglu, a.fp8);
  RoundFor(programs, form, a, x, stride);
  LaunchRoundedGemm(programs, a);
  if (a.w2.buffer == nullptr || a.swiglu) return;
  const Form second = FormOf(programs, a.w2, a.T, false, a.fp8);
  if (second.program != form.program) RoundFor(programs, second, a, x, stride);
  LaunchProduct(programs, second, a, a.w2, a.y2, a.y2_stride, kStore);
}

void LaunchRoundedGemm(Programs& programs, const LinearArgs& a) {
  const Mode mode = a.swiglu ? kSwiglu : a.accumulate ? kAdd : kStore;
  const Form form = FormOf(programs, a.w, a.T, a.swiglu, a.fp8);
  LaunchProduct(programs, form, a, a.w, a.y, a.y_stride, mode);
}

bool LaunchedGemmBf16(Programs& programs, const LinearArgs& a) {
  TANDEM_CHECK(a.norm.w.buffer == nullptr && a.w2.buffer == nullptr && !a.accumulate);
  if (!GemmTakes(programs, a) || !HasMma(programs, a.w.dtype) || a.w.rows % 2 != 0) return false;
  const Form form = FormOf(programs, a.w, a.T, false, a.fp8);
  RoundFor(programs, form, a, a.x, a.x_stride);
  LaunchProduct(programs, form, a, a.w, a.y, a.y_stride, kBf16);
  return true;
}

bool GemmTakes(const Programs& programs, const ExpertsArgs& a) {
  return MayHaveMma(programs, a.gate_up) && MayHaveMma(programs, a.down) && a.bf16 &&
         TakesWork(a.work) && a.act.offset % 4 == 0 && a.tile_rows == kGemmTileRows &&
         TakesColumns(a.gate_up, a.D) && TakesColumns(a.down, a.F);
}

bool LaunchedGemm(Programs& programs, const ExpertsArgs& a) {
  if (!GemmTakes(programs, a) || !HasMma(programs, a.gate_up) || !HasMma(programs, a.down)) {
    return false;
  }
  LaunchExpertsGemm(programs, a);
  return true;
}

std::int64_t ExpertsActColumns(Programs& programs, const ExpertsArgs& a) {
  return Turned(programs, a) ? TurnedColumns(a.down) : 0;
}

void LaunchExpertsGemm(Programs& programs, const ExpertsArgs& a) {
  TANDEM_CHECK(GemmTakes(programs, a));
  if (a.T <= 0 || a.max_tiles <= 0) return;
  const auto slabs = static_cast<cl_int>(a.slabs.size());
  const bool turned = Turned(programs, a);
  const bool fp8 = !turned && RoundsExperts(programs, a);
  if (turned) {
    RoundTurned(programs, a);
  } else if (fp8) {
    LaunchE4m3(programs, "e4m3_rows", a.x, a.x_stride, a.T, a.D, a.work);
  } else {
    LaunchGemmRound(programs, a.gate_up, a.x, a.x_stride, a.T, a.D, a.work);
  }
  const auto gate_up = turned ? LaunchTurnedGateUp : fp8 ? LaunchF8GateUp : LaunchGateUp;
  const auto down = turned ? LaunchTurnedDown : fp8 ? LaunchF8Down : LaunchDown;
  for (cl_int slab = 0; slab < slabs; slab += kSlabsAtOnce) gate_up(programs, a, slab);
  for (cl_int slab = 0; slab < slabs; slab += kSlabsAtOnce) down(programs, a, slab);
  if (!a.sum) return;
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
