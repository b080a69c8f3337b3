#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dtype.h"

namespace tandem::cl {

// The .cl files are compiled in a few programs, by what they are typed by: a program costs a second
// on some drivers, a kernel in it little.
enum class Program : int {
  kMatmul,            // per weight format: linear, head_linear, experts, router_linear
  kKvCache,           // per KV type: kv_append, attention
  kMla,               // per KV type: mla_append, mla_attention, mla_mma
  kMlaHeads,          // per weight format: mla_heads
  kPanels,            // per block format: panels, panel_split
  kGemm,              // per weight format: gemm, in two shapes
  kGemmWide,          // bf16: gemm_wide
  kGemmWgmma,         // bf16: gemm_wgmma, whose binary is patched (program_patch.h)
  kE4m3,              // FP8: e4m3
  kGemmF8Wgmma,       // FP8: gemm_f8_wgmma, whose binary is patched
  kGemmF8Mma,         // FP8: gemm_f8_mma
  kGemmTilesWgmma,    // per weight format but bf16: gemm, patched
  kMlaWgmma,          // per KV type: mla_wgmma, whose binary is patched
  kMlaExpanded,       // one for all: mla_expanded, mla_expanded_mma
  kMlaExpandedWgmma,  // the same, patched
  kLinearBatch,       // per weight format: linear_batch
  kLinearTile,        // per weight format: linear_tile, in its shapes
  kOneRowMma,         // per weight format of small codes: one_row_mma, router_shared
  kRows,              // f32 only: rmsnorm, rope, elementwise, router, hand_over, step_feed
  kGemmTurned,        // per weight format but bf16: gemm_turned, patched
  kMlaOneRow,         // per weight format: mla_one_row
};
inline constexpr std::array kPrograms{
    Program::kMatmul,      Program::kKvCache,          Program::kMla,
    Program::kMlaHeads,    Program::kPanels,           Program::kGemm,
    Program::kGemmWide,    Program::kGemmWgmma,        Program::kE4m3,
    Program::kGemmF8Wgmma, Program::kGemmTilesWgmma,   Program::kMlaWgmma,
    Program::kMlaExpanded, Program::kMlaExpandedWgmma, Program::kLinearBatch,
    Program::kLinearTile,  Program::kOneRowMma,        Program::kRows,
    Program::kGemmTurned,  Program::kGemmF8Mma,        Program::kMlaOneRow,
};

// True where the binary is patched (program_patch.h).
constexpr bool IsPatched(Program program) {
  return program == Program::kGemmWgmma || program == Program::kGemmF8Wgmma ||
         program == Program::kGemmTilesWgmma || program == Program::kGemmTurned ||
         program == Program::kMlaWgmma || program == Program::kMlaExpandedWgmma;
}

// "matmul", ...: for messages.
std::string_view NameOf(Program program);
// The whole text that is compiled: the shared files, then the operations'.
std::string TextOf(Program program);
// " -DWTYPE=1", " -DKVTYPE=0" or "": the type's number as common.cl has it.
std::string TypeOption(Program program, DType type);

}  // namespace tandem::cl
