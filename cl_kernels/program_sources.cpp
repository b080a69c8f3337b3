#include "cl_kernels/program_sources.h"

#include <fmt/format.h>

#include <array>

namespace tandem::cl {

namespace source {  // written by embed_cl.cmake
extern const std::string_view common, arrive, f16_mma, experts_args, one_row_codes, one_row_walk,
    one_row_mma, one_row_parts, one_row_mma_kernels, one_row_tile, weights, units, few_rows, matmul,
    linear, linear_args, linear_batch, linear_batch_parts, linear_tile, linear_tile_parts,
    head_linear, experts, one_row, one_row_experts, attention, kv_append, rmsnorm, rope,
    elementwise, group, argmax, router, router_linear, router_shared, hand_over, step_feed, mma,
    mla_cache, mla_append, mla_attention, mla_heads, mla_heads_mma, mla_latents, mla_expanded,
    mla_expanded_mma, mla_expanded_wgmma, mla_mma, mla_one_row, mla_one_row_parts, mla_parts,
    mla_wgmma, mla_wgmma_parts, panels, panel_split, gemm_decode, gemm_fragments, gemm_parts,
    gemm_tile, gemm, e4m3, gemm_f8_experts, gemm_f8_mma, gemm_f8_parts, gemm_f8_wgmma, gemm_wide,
    gemm_wgmma, gemm_tile_wgmma, gemm_turned, wgmma, mla_wgmma_boxes, mla_wgmma_f8,
    mla_wgmma_weights;
}  // namespace source

namespace {

// The matrix units' tile in one shape: fragments of a warp, stages, and warps along the rows of x.
std::string GemmTile(int mt, int nt, std::string_view stages, int mw) {
  return fmt::format(
      "#undef MW\n#define MW {}\n#define MT {}\n#define NT {}\n#define STAGES {}\n{}\n#undef "
      "MT\n#undef NT\n#undef STAGES\n",
      mw, mt, nt, stages, source::gemm_tile);
}

// linear_batch.cl in its shapes.
std::string LinearBatch() {
  std::string text;
  for (int tiles = 2; tiles <= 5; ++tiles) {
    for (int eights = 1; eights <= 2; ++eights) {
      text += fmt::format("#define TILES {}\n#define EIGHTS {}\n{}\n#undef TILES\n#undef EIGHTS\n",
                          tiles, eights, source::linear_batch);
    }
  }
  return text;
}

// linear_tile.cl in its shapes: rows, columns, and the columns of K that it takes in a step.
std::string LinearTiles() {
  std::string text;
  for (const auto& [rows, columns, k] :
       {std::array{128, 128, 16}, std::array{128, 64, 16}, std::array{64, 64, 32}}) {
    text += fmt::format(
        "#define TILE_T {}\n#define TILE_N {}\n#define TILE_K {}\n{}\n#undef TILE_T\n#undef "
        "TILE_N\n#undef TILE_K\n",
        rows, columns, k, source::linear_tile);
  }
  return text;
}

}  // namespace

std::string_view NameOf(Program program) {
  constexpr std::string_view kNames[] = {
      "matmul",       "kv_cache",         "mla",         "mla_heads",    "panels",
      "gemm",         "gemm_wide",        "gemm_wgmma",  "e4m3",         "gemm_f8_wgmma",
      "gemm_f8_mma",  "gemm_tiles_wgmma", "mla_wgmma",   "mla_expanded", "mla_expanded_wgmma",
      "linear_batch", "linear_tile",      "one_row_mma", "rows",         "gemm_turned",
      "mla_one_row"};
  return kNames[static_cast<std::size_t>(program)];
}

std::string TextOf(Program program) {
  using namespace source;
  switch (program) {
    case Program::kMatmul:
      return fmt::format("{}{}{}{}{}{}{}{}{}{}{}{}#define ROUTER_GROUP (TEAM * TEAMS)\n{}{}{}",
                         common, weights, units, few_rows, matmul, linear_args, linear, head_linear,
                         experts_args, experts, one_row, one_row_experts, router, arrive,
                         router_linear);
    case Program::kLinearBatch:
      return fmt::format("{}{}{}{}{}{}", common, mma, gemm_decode, linear_args, linear_batch_parts,
                         LinearBatch());
    case Program::kLinearTile:
      return fmt::format("{}{}{}{}{}{}", common, weights, matmul, linear_args, linear_tile_parts,
                         LinearTiles());
    case Program::kOneRowMma:
      return fmt::format("{}{}{}{}{}{}{}{}{}{}{}{}#define ROUTER_GROUP 512\n{}{}", common, weights,
                         f16_mma, linear_args, experts_args, arrive, one_row_codes, one_row_walk,
                         one_row_mma, one_row_parts, one_row_mma_kernels, one_row_tile, router,
                         router_shared);
    case Program::kKvCache:
      return fmt::format("{}{}{}", common, kv_append, attention);
    case Program::kMla:
      return fmt::format("{}{}{}{}{}{}{}", common, mla_cache, mla_append, mla_latents,
                         mla_attention, mla_parts, mla_mma);
    case Program::kMlaHeads:
      return fmt::format("{}{}{}{}{}{}", common, weights, mma, mla_append, mla_heads,
                         mla_heads_mma);
    case Program::kMlaOneRow:
      return fmt::format("{}{}{}{}{}{}{}{}", common, weights, mma, f16_mma, mla_append, arrive,
                         mla_one_row_parts, mla_one_row);
    case Program::kPanels:
      return fmt::format("{}{}{}{}", common, weights, panels, panel_split);
    case Program::kGemm:
      return fmt::format("{}{}{}{}{}{}{}", common, mma, gemm_decode, gemm_parts,
                         GemmTile(4, 4, "NARROW_STAGES", 2), GemmTile(2, 4, "NARROW_STAGES", 2),
                         gemm);
    case Program::kGemmWide:
      return fmt::format("{}{}{}{}{}{}", common, mma, gemm_decode, gemm_parts, gemm_fragments,
                         gemm_wide);
    case Program::kGemmTilesWgmma:
      return fmt::format("{}{}{}#define TILE_WGMMA\n{}{}{}{}{}{}{}", common, mma, wgmma,
                         gemm_decode, gemm_parts, gemm_tile_wgmma,
                         GemmTile(1, 16, "NARROW_STAGES", 8), GemmTile(1, 8, "NARROW_STAGES", 4),
                         "#undef MW\n#define MW 2\n", gemm);
    case Program::kGemmTurned:
      return fmt::format("{}{}{}#define TILE_WGMMA\n#define WHOLE_LINES\n{}{}{}", common, mma,
                         wgmma, gemm_decode, gemm_parts, gemm_turned);
    case Program::kGemmWgmma:
      return fmt::format("{}{}{}{}{}{}{}", common, mma, wgmma, gemm_decode, gemm_parts,
                         gemm_fragments, gemm_wgmma);
    case Program::kE4m3:
      return fmt::format("{}{}", common, e4m3);
    case Program::kGemmF8Wgmma:
      return fmt::format("{}{}{}{}{}{}{}{}{}", common, mma, wgmma, e4m3, gemm_decode, gemm_parts,
                         gemm_f8_parts, gemm_f8_wgmma, gemm_f8_experts);
    case Program::kGemmF8Mma:
      return fmt::format("{}{}{}{}{}{}", common, mma, gemm_decode, gemm_parts, gemm_f8_parts,
                         gemm_f8_mma);
    case Program::kMlaWgmma:
      return fmt::format("{}{}{}{}{}{}{}{}{}{}", common, wgmma, mla_cache, mla_attention, mla_parts,
                         mla_wgmma_parts, mla_wgmma_weights, mla_wgmma_f8, mla_wgmma_boxes,
                         mla_wgmma);
    case Program::kMlaExpanded:
      return fmt::format("{}{}{}{}", common, mma, mla_expanded, mla_expanded_mma);
    case Program::kMlaExpandedWgmma:
      return fmt::format("{}{}{}{}{}{}", common, mma, wgmma, mla_expanded, mla_expanded_wgmma,
                         mla_expanded_mma);
    case Program::kRows:
      return fmt::format("{}{}{}{}{}{}{}{}{}", common, rmsnorm, rope, elementwise, group, argmax,
                         router, hand_over, step_feed);
  }
  return {};
}

std::string TypeOption(Program program, DType type) {
  switch (program) {
    case Program::kMatmul:
    case Program::kLinearBatch:
    case Program::kLinearTile:
    case Program::kOneRowMma:
    case Program::kMlaHeads:
    case Program::kMlaOneRow:
    case Program::kPanels:
    case Program::kGemm:
    case Program::kGemmWide:
    case Program::kGemmTilesWgmma:
    case Program::kGemmTurned:
    case Program::kGemmWgmma:
    case Program::kE4m3:
    case Program::kGemmF8Wgmma:
    case Program::kGemmF8Mma:
      return fmt::format(" -DWTYPE={}", static_cast<int>(type));
    case Program::kKvCache:
    case Program::kMla:
    case Program::kMlaWgmma:
      return fmt::format(" -DKVTYPE={}", static_cast<int>(type));
    case Program::kMlaExpanded:
    case Program::kMlaExpandedWgmma:
    case Program::kRows:
      break;
  }
  return {};
}

}  // namespace tandem::cl
