#include "runtime/expert_launch.h"

#include "cl_kernels/experts.h"

namespace tandem {
namespace {

constexpr std::int64_t kTileWords = sizeof(cl::ExpertTile) / sizeof(cl_int);

// The lists of one layer, one behind the other in a scratch buffer: tiles, their number, and for
// every pair its row, its weight and its place.
struct Lists {
  Lists(const cl::Span& memory, std::int64_t max_tiles, std::int64_t pairs)
      : tiles(memory),
        n_tiles{memory.buffer, kTileWords * max_tiles},
        pair_row{memory.buffer, kTileWords * (max_tiles + 1)},
        pair_weight{memory.buffer, pair_row.offset + pairs},
        token_pairs{memory.buffer, pair_weight.offset + pairs} {}
  cl::Span tiles, n_tiles, pair_row, pair_weight, token_pairs;
};

}  // namespace

ExpertMemory::ExpertMemory(const DeviceSide& device) {
  const auto take = [&](cl::Span& span, const char* name) {
    if (device.HasScratch(name)) span = device.Scratch(name);
  };
  take(h, "h");
  take(choice, "router_choice");
  take(act, "act");
  take(pair_out, "pair_out");
  take(lists, "expert_lists");
  take(work, "gemm_work");
}

cl::ExpertsArgs ExpertMemory::Experts(const Config& c, const Plan& plan,
                                      const LayerExperts& experts, std::int64_t T,
                                      const DeviceSide& device) const {
  cl::ExpertsArgs a;
  a.slabs = experts.slabs;
  a.gate_up = experts.gate_up;
  a.down = experts.down;
  a.D = c.hidden_size;
  a.F = experts.F;
  a.F_unit = experts.F_unit;
  a.table = experts.table;
  a.T = T;
  a.C = c.num_experts_per_tok + (experts.shared ? 1 : 0);
  a.bf16 = plan.bf16_many_rows;
  a.fp8 = plan.f8_many_rows;
  a.tile_rows = cl::ExpertTileRows(device.kernels.traits(), a.T, a.C, c.n_routed_experts, a.bf16);
  a.max_tiles = cl::MaxTiles(a.T, a.C, c.n_routed_experts + 1, a.tile_rows);
  const Lists of_layer(lists, a.max_tiles, a.T * a.C);
  a.tiles = of_layer.tiles;
  a.n_tiles = of_layer.n_tiles;
  a.pair_row = of_layer.pair_row;
  a.pair_weight = of_layer.pair_weight;
  a.token_pairs = of_layer.token_pairs;
  a.x = h;
  a.x_stride = c.hidden_size;
  a.act = act;
  a.pair_out = pair_out;
  a.y_stride = c.hidden_size;
  a.work = work;
  return a;
}

cl::GroupArgs ExpertMemory::Group(const Config& c, const LayerExperts& experts,
                                  const cl::Span& table, const cl::ExpertsArgs& a) const {
  const std::int64_t K = c.num_experts_per_tok;
  return {choice,
          {choice.buffer, choice.offset + a.T * K},
          table,
          a.T,
          K,
          c.n_routed_experts,
          experts.shared,
          a.tile_rows,
          a.tiles,
          a.n_tiles,
          a.pair_row,
          a.pair_weight,
          a.token_pairs};
}

}  // namespace tandem
