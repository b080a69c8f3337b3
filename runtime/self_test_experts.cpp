#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "cl_kernels/experts.h"
#include "cl_kernels/gemm.h"
#include "cpu_kernels/kernel_table.h"
#include "runtime/self_test_cases.h"

namespace tandem {
namespace {

double Silu(double v) { return v / (1 + std::exp(-v)); }

// w of [n, k] by x of [k].
Doubles Times(const Doubles& w, std::int64_t n, std::int64_t k, const Doubles& x) {
  Doubles y(Size(n));
  for (std::int64_t i = 0; i < n; ++i) {
    y[Size(i)] = std::inner_product(x.begin(), x.end(), w.begin() + i * k, 0.0);
  }
  return y;
}

// down . (weight * silu(gate . x) * (up . x)), added to y.
void AddExpert(const TestExpert& e, const Doubles& x, double weight, double* y) {
  const std::int64_t F = e.gate.weight.rows;
  const std::int64_t D = e.gate.weight.cols;
  const Doubles gate = Times(e.gate.values, F, D, x);
  Doubles act = Times(e.up.values, F, D, x);
  for (std::size_t f = 0; f < act.size(); ++f) act[f] *= weight * Silu(gate[f]);
  const Doubles out = Times(e.down.values, D, F, act);
  for (std::size_t d = 0; d < out.size(); ++d) y[d] += out[d];
}

}  // namespace

struct SelfTestCases::ExpertsShape {
  std::int64_t T;
  std::int64_t E = 3, K = 2, D = 256, F = 256;
};

struct SelfTestCases::ExpertsRun {
  std::vector<TestExpert> experts;
  std::vector<cl::ExpertEntry> table;
  ClBuffer slab;
  Floats x, weights;
  std::vector<std::int32_t> ids;
};

// Experts one behind another in a slab, each reached through the table.
SelfTestCases::ExpertsRun SelfTestCases::MakeExperts(const ExpertsShape& s, DType format) {
  ExpertsRun run;
  std::uint64_t bytes = 0;
  std::vector<std::pair<const TestMatrix*, std::uint64_t>> copies;
  run.experts.reserve(Size(s.E));
  for (std::int64_t e = 0; e < s.E; ++e) {
    const TestExpert& expert = run.experts.emplace_back(TestExpert{
        MakeMatrix(format, s.F, s.D), MakeMatrix(format, s.F, s.D), MakeMatrix(format, s.D, s.F)});
    cl::ExpertEntry& entry = run.table.emplace_back();
    const auto place = [&](const TestMatrix& m, cl_ulong& at, cl_ulong& side) {
      copies.emplace_back(&m, bytes);
      at = bytes;
      side = bytes + m.weight.scale_offset;
      bytes += (m.buffer.bytes() + 255) / 256 * 256;
    };
    place(expert.gate, entry.gate, entry.gate_scale);
    place(expert.up, entry.up, entry.up_scale);
    place(expert.down, entry.down, entry.down_scale);
    entry.slab = 0;
    entry.F = static_cast<cl_int>(s.F);
  }
  run.slab = device().Allocate(bytes);
  for (const auto& [m, at] : copies) {
    device().Copy(m->buffer.get(), 0, run.slab.get(), at, m->buffer.bytes());
  }
  run.x = Random(s.T * s.D);
  run.weights = Random(s.T * s.K);
  for (std::int64_t i = 0; i < s.T * s.K; ++i) {
    run.ids.push_back(static_cast<std::int32_t>((i / s.K + i % s.K) % s.E));
  }
  return run;
}

// y of the device, which groups the rows by expert first.
Floats SelfTestCases::RunExperts(const ExpertsShape& s, const ExpertsRun& run, DType format,
                                 bool bf16) {
  const std::int64_t P = s.T * s.K;
  const ClBuffer table = Upload(run.table), ids = Upload(run.ids), weights = Upload(run.weights);
  const ClBuffer n_tiles = Results(1), pair_row = Results(P), pair_weight = Results(P);
  const ClBuffer token_pairs = Results(P), x = Upload(run.x), act = Results(P * s.F);
  const ClBuffer out = Results(P * s.D), y = Upload(Floats(run.x.size()));
  const ClBuffer work = Results(cl::GemmWorkFloats(s.T, s.D));
  cl::GroupArgs g;
  g.ids = {ids.get(), 0};
  g.weights = {weights.get(), 0};
  g.table = {table.get(), 0};
  g.T = s.T;
  g.K = s.K;
  g.E = s.E;
  g.tile_rows = cl::ExpertTileRows(kernels_.traits(), s.T, s.K, s.E, bf16);
  const std::int64_t max_tiles = cl::MaxTiles(s.T, s.K, s.E, g.tile_rows);
  const ClBuffer tiles = device().Allocate(Size(max_tiles) * sizeof(cl::ExpertTile));
  g.tiles = {tiles.get(), 0};
  g.n_tiles = {n_tiles.get(), 0};
  g.pair_row = {pair_row.get(), 0};
  g.pair_weight = {pair_weight.get(), 0};
  g.token_pairs = {token_pairs.get(), 0};
  kernels_.Group(g);
  cl::ExpertsArgs a;
  const cl_mem slab = run.slab.get();
  a.slabs = {&slab, 1};
  a.gate_up = a.down = format;
  a.D = s.D;
  a.F = s.F;
  a.table = g.table;
  a.tiles = g.tiles;
  a.n_tiles = g.n_tiles;
  a.max_tiles = max_tiles;
  a.tile_rows = g.tile_rows;
  a.pair_row = g.pair_row;
  a.pair_weight = g.pair_weight;
  a.token_pairs = g.token_pairs;
  a.T = s.T;
  a.C = s.K;
  a.x = {x.get(), 0};
  a.x_stride = s.D;
  a.act = {act.get(), 0};
  a.pair_out = {out.get(), 0};
  a.y = {y.get(), 0};
  a.y_stride = s.D;
  a.bf16 = bf16;
  if (bf16) a.work = {work.get(), 0};
  kernels_.Experts(a);
  return Download(y, std::ssize(run.x));
}

void SelfTestCases::ExpertsOf(const ExpertsShape& s, DType format, bool bf16) {
  const ExpertsRun run = MakeExperts(s, format);
  const Floats got = RunExperts(s, run, format, bf16);
  Doubles want(run.x.size());
  for (std::int64_t p = 0; p < s.T * s.K; ++p) {
    const std::int64_t t = p / s.K;
    const Doubles row(run.x.begin() + t * s.D, run.x.begin() + (t + 1) * s.D);
    AddExpert(run.experts[Size(run.ids[Size(p)])], row, run.weights[Size(p)],
              want.data() + t * s.D);
  }
  // Rounded on the way in, between, and in three matrices.
  Add("experts", fmt::format("{} rows{}", s.T, bf16 ? ", bf16" : ""), format,
      bf16 ? 3 * kBf16Bound : kFloatBound, want, got);
}

void SelfTestCases::Experts(DType format, bool bf16) {
  for (const std::int64_t T : {1, 5}) ExpertsOf({.T = T}, format, false);
  if (bf16) ExpertsOf({.T = 40}, format, true);
}

// The CPU's choice, ties and all; weights as exact as exp.
void SelfTestCases::Router() {
  constexpr std::int64_t T = 5, E = 64, K = 6;
  const Floats logits = Random(T * E, 4), bias = Random(E);
  std::vector<std::int32_t> ids(Size(T * K));
  Floats weights(Size(T * K));
  cpu::RouterArgs rule;
  rule.logits = logits.data();
  rule.logits_stride = E;
  rule.bias = bias.data();
  rule.ids = ids.data();
  rule.weights = weights.data();
  rule.T = T;
  rule.E = E;
  rule.K = K;
  rule.n_group = 8;
  rule.topk_group = 4;
  rule.scoring = cpu::ScoringFunc::kSigmoid;
  rule.method = cpu::TopkMethod::kNoauxTc;
  rule.norm_topk_prob = true;
  cpu::MakeKernelTable(cpu::Isa::kRef).router(rule);
  const ClBuffer d_logits = Upload(logits), d_bias = Upload(bias);
  const ClBuffer d_ids = Results(T * K), d_weights = Results(T * K);
  cl::RouterArgs a;
  a.logits = {d_logits.get(), 0};
  a.bias = {d_bias.get(), 0};
  a.ids = {d_ids.get(), 0};
  a.weights = {d_weights.get(), 0};
  a.T = T;
  a.E = E;
  a.K = K;
  a.n_group = rule.n_group;
  a.topk_group = rule.topk_group;
  a.scoring = static_cast<int>(rule.scoring);
  a.method = static_cast<int>(rule.method);
  a.norm_topk_prob = true;
  kernels_.Router(a);
  const std::vector<std::int32_t> got = Download<std::int32_t>(d_ids, T * K);
  Add("router", "choice", DType::kI32, 0, Doubles(ids.begin(), ids.end()),
      Floats(got.begin(), got.end()));
  Add("router", "weights", DType::kF32, kFloatBound, Doubles(weights.begin(), weights.end()),
      Download(d_weights, T * K));
}

}  // namespace tandem
