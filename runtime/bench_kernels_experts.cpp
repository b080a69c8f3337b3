// Experts of a layer with the lists that Group makes, and Group itself.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/experts.h"
#include "cl_kernels/gemm.h"
#include "runtime/bench_kernels_cases.h"

namespace tandem {
namespace {

constexpr std::int64_t kEntryWords = sizeof(cl::ExpertEntry) / sizeof(cl_int);
constexpr std::int64_t kTileWords = sizeof(cl::ExpertTile) / sizeof(cl_int);
constexpr std::int64_t kMostEntries = 512;  // that Group takes

// T rows with K choices each, of `used` experts; `sets` such calls use one after another of the
// `entries` experts that memory holds.
struct Routing {
  std::int64_t T = 0, K = 0, used = 0, entries = 0, sets = 0;
};

struct Layer {
  ExpertsShape shape;
  DType type = DType::kBF16;
  Routing routing;

  std::int64_t pairs() const { return routing.T * routing.K; }
};

std::size_t ExpertBytes(DType type, const ExpertsShape& s) {
  return 2 * BenchMemory::MatrixBytes(type, s.F, s.D) + BenchMemory::MatrixBytes(type, s.D, s.F);
}

Routing RoutingOf(const BenchMemory& memory, DType type, const ExpertsShape& shape, std::int64_t T,
                  std::int64_t wanted) {
  const auto held = static_cast<std::int64_t>(memory.weight_bytes() / ExpertBytes(type, shape));
  Routing r{T, shape.K, std::min(wanted, held), std::min(held, kMostEntries), 0};
  r.sets = r.used == 0 ? 0 : r.entries / r.used;
  return r;
}

std::vector<std::int32_t> TableWords(const BenchMemory& memory, const Layer& layer) {
  const ExpertsShape& s = layer.shape;
  const std::size_t wide = BenchMemory::MatrixBytes(layer.type, s.F, s.D);
  std::vector<std::int32_t> words(static_cast<std::size_t>(layer.routing.entries * kEntryWords));
  for (std::int64_t e = 0; e < layer.routing.entries; ++e) {
    const std::uint64_t at = static_cast<std::uint64_t>(e) * ExpertBytes(layer.type, s);
    const cl::Weight gate = memory.MatrixAt(at, layer.type, s.F, s.D);
    const cl::Weight up = memory.MatrixAt(at + wide, layer.type, s.F, s.D);
    const cl::Weight down = memory.MatrixAt(at + 2 * wide, layer.type, s.D, s.F);
    const cl::ExpertEntry entry{
        gate.offset, gate.scale_offset, up.offset, up.scale_offset,
        down.offset, down.scale_offset, 0,         static_cast<cl_int>(s.F)};
    std::memcpy(&words[static_cast<std::size_t>(e * kEntryWords)], &entry, sizeof(entry));
  }
  return words;
}

// Every expert of a set gets as many pairs as its neighbour, or one less.
std::vector<std::int32_t> Choices(const Routing& r) {
  std::vector<std::int32_t> ids;
  for (std::int64_t set = 0; set < r.sets; ++set) {
    for (std::int64_t i = 0; i < r.T * r.K; ++i) {
      ids.push_back(static_cast<std::int32_t>(set * r.used + i % r.used));
    }
  }
  return ids;
}

// What Group writes, for every set.
struct Lists {
  ClBuffer tiles, n_tiles, pair_row, pair_weight, token_pairs;
};

struct ExpertsState {
  ClBuffer table, ids, weights;
  Lists lists;
  ClBuffer x, act, pair_out, y, work;
  cl_mem slab = nullptr;
  std::int64_t max_tiles = 0;
  cl::ExpertsArgs args;
  cl::GroupArgs group;
};

void PrepareGroup(BenchMemory& memory, const Layer& layer, std::int64_t tile_rows,
                  ExpertsState& s) {
  const Routing& r = layer.routing;
  s.max_tiles = cl::MaxTiles(r.T, r.K, r.used, tile_rows);
  s.table = memory.Words(TableWords(memory, layer));
  s.ids = memory.Words(Choices(r));
  s.weights = memory.Values(r.sets * layer.pairs());
  s.lists.tiles = memory.Values(r.sets * s.max_tiles * kTileWords);
  s.lists.n_tiles = memory.Values(r.sets);
  s.lists.pair_row = memory.Values(r.sets * layer.pairs());
  s.lists.pair_weight = memory.Values(r.sets * layer.pairs());
  s.lists.token_pairs = memory.Values(r.sets * layer.pairs());
  s.group.table = All(s.table);
  s.group.T = r.T;
  s.group.K = r.K;
  s.group.E = r.entries;
  s.group.tile_rows = tile_rows;
}

cl::GroupArgs GroupOf(const ExpertsState& s, std::int64_t set) {
  cl::GroupArgs a = s.group;
  const std::int64_t pairs = set * a.T * a.K;
  a.ids = {s.ids.get(), pairs};
  a.weights = {s.weights.get(), pairs};
  a.tiles = {s.lists.tiles.get(), set * s.max_tiles * kTileWords};
  a.n_tiles = {s.lists.n_tiles.get(), set};
  a.pair_row = {s.lists.pair_row.get(), pairs};
  a.pair_weight = {s.lists.pair_weight.get(), pairs};
  a.token_pairs = {s.lists.token_pairs.get(), pairs};
  return a;
}

void PrepareActivations(BenchMemory& memory, const Layer& layer, ExpertsState& s) {
  const std::int64_t T = layer.routing.T;
  const std::int64_t D = layer.shape.D;
  s.x = memory.Values(T * D);
  s.y = memory.Values(T * D);
  s.act = memory.Values(layer.pairs() * layer.shape.F);
  s.pair_out = memory.Values(layer.pairs() * D);
  s.work = memory.Values(cl::GemmWorkFloats(T, D));
  s.slab = memory.weights();
  cl::ExpertsArgs& a = s.args;
  a.slabs = {&s.slab, 1};
  a.gate_up = a.down = layer.type;
  a.D = D;
  a.F = layer.shape.F;
  a.table = All(s.table);
  a.max_tiles = s.max_tiles;
  a.tile_rows = s.group.tile_rows;
  a.T = T;
  a.C = layer.routing.K;
  a.x = All(s.x);
  a.x_stride = D;
  a.act = All(s.act);
  a.pair_out = All(s.pair_out);
  a.y = All(s.y);
  a.y_stride = D;
  a.bf16 = true;
  a.work = All(s.work);
}

void RunExperts(cl::Kernels& kernels, ExpertsState& s, std::int64_t set) {
  const cl::GroupArgs lists = GroupOf(s, set);
  s.args.tiles = lists.tiles;
  s.args.n_tiles = lists.n_tiles;
  s.args.pair_row = lists.pair_row;
  s.args.pair_weight = lists.pair_weight;
  s.args.token_pairs = lists.token_pairs;
  kernels.Experts(s.args);
}

std::shared_ptr<ExpertsState> PrepareExperts(BenchMemory& memory, cl::Kernels& kernels,
                                             const Layer& layer) {
  const Routing& r = layer.routing;
  auto s = std::make_shared<ExpertsState>();
  memory.Fill(layer.type);
  const std::int64_t tile_rows =
      cl::ExpertTileRows(kernels.traits(), r.T, r.K, r.used, /*bf16=*/true);
  PrepareGroup(memory, layer, tile_rows, *s);
  PrepareActivations(memory, layer, *s);
  for (std::int64_t set = 0; set < r.sets; ++set) kernels.Group(GroupOf(*s, set));
  return s;
}

KernelCase ExpertsCase(BenchMemory& memory, const Layer& layer) {
  const Routing& r = layer.routing;
  const ExpertsShape& shape = layer.shape;
  KernelCase c;
  c.kernel = "experts";
  c.shape = fmt::format("{}, {} row{} x {}, {} experts", shape.name, r.T, r.T == 1 ? "" : "s", r.K,
                        r.used);
  c.format = Name(layer.type);
  c.bytes = static_cast<double>(r.used) * static_cast<double>(ExpertBytes(layer.type, shape)) +
            static_cast<double>(3 * r.T * shape.D) * sizeof(float);  // x, y before and after
  c.flops = 6.0 * static_cast<double>(shape.D * shape.F * layer.pairs());
  c.left_out = memory.WhyNot(ExpertBytes(layer.type, shape) * std::max<std::int64_t>(r.used, 1),
                             static_cast<std::uint64_t>(layer.pairs()) * shape.D * sizeof(float));
  c.prepare = [layer, &memory](cl::Kernels& kernels) {
    const auto s = PrepareExperts(memory, kernels, layer);
    const auto sets = static_cast<std::size_t>(layer.routing.sets);
    const auto one = [s, sets, &kernels](std::size_t i) {
      RunExperts(kernels, *s, static_cast<std::int64_t>(i % sets));
    };
    return PreparedKernel(InTurn(one), s->y);
  };
  return c;
}

KernelCase GroupCase(BenchMemory& memory, const Layer& layer) {
  const Routing& r = layer.routing;
  KernelCase c;
  c.kernel = "group";
  c.shape = fmt::format("{} row{} x {} of {} experts", r.T, r.T == 1 ? "" : "s", r.K, r.entries);
  c.format = Name(DType::kI32);
  c.bytes = static_cast<double>(r.entries) * sizeof(cl::ExpertEntry) +
            static_cast<double>(layer.pairs()) * 5 * sizeof(cl_int);
  c.prepare = [layer, &memory](cl::Kernels& kernels) {
    const Routing& routing = layer.routing;
    auto s = std::make_shared<ExpertsState>();
    PrepareGroup(memory, layer,
                 cl::ExpertTileRows(kernels.traits(), routing.T, routing.K, routing.used, true),
                 *s);
    return InTurn([s, &kernels](std::size_t) { kernels.Group(GroupOf(*s, 0)); });
  };
  return c;
}

}  // namespace

std::vector<KernelCase> ExpertCases(const KernelGrid& grid, BenchMemory& memory) {
  std::vector<KernelCase> cases;
  const auto add = [&](DType type, const ExpertsShape& shape, std::int64_t T, std::int64_t used) {
    cases.push_back(ExpertsCase(memory, {shape, type, RoutingOf(memory, type, shape, T, used)}));
  };
  for (const DType type : grid.expert_formats) {
    for (const ExpertsShape& shape : grid.experts) {
      if (shape.D % BlockElements(type) != 0 || shape.F % BlockElements(type) != 0) continue;
      for (const std::int64_t T : grid.expert_tokens) {
        add(type, shape, T, std::min(T * shape.K, shape.E));
      }
      std::int64_t used = std::min(grid.most_experts, shape.E);
      while (used > 1 && !memory.WhyNot(used * ExpertBytes(type, shape), 0).empty()) used /= 2;
      add(type, shape, (used * grid.expert_rows + shape.K - 1) / shape.K, used);
    }
  }
  for (const ExpertsShape& shape : grid.experts) {
    for (const std::int64_t T : grid.tokens) {
      const Routing routing{T, shape.K, shape.E, shape.E, 1};
      cases.push_back(GroupCase(memory, {shape, DType::kBF16, routing}));
    }
  }
  return cases;
}

}  // namespace tandem
