// What is done row by row: norms, the router's choice, the experts' sum, the largest logit.
#include <fmt/format.h>

#include <memory>

#include "cpu_kernels/router.h"
#include "runtime/bench_kernels_cases.h"

namespace tandem {
namespace {

std::string Rows(std::int64_t T) { return fmt::format("{} row{}", T, T == 1 ? "" : "s"); }

KernelCase RmsNormCase(BenchMemory& memory, std::int64_t T, std::int64_t D) {
  KernelCase c;
  c.kernel = "rmsnorm";
  c.shape = fmt::format("{} of {}", Rows(T), D);
  c.format = Name(DType::kF32);
  c.bytes = static_cast<double>(2 * T * D + D) * sizeof(float);
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    struct State {
      ClBuffer x, w, y;
    };
    const auto s = std::make_shared<State>(
        State{memory.Values(T * D), memory.Values(D), memory.Values(T * D)});
    const cl::RmsNormArgs a{All(s->x), D, All(s->w), All(s->y), D, T, D, 1e-6F};
    return PreparedKernel(InTurn([s, a, &kernels](std::size_t) { kernels.RmsNorm(a); }), s->y);
  };
  return c;
}

// Sigmoid, groups and a bias as V3 has them.
cl::RouterArgs RouterOf(const ExpertsShape& shape, std::int64_t T) {
  constexpr std::int64_t kGroups = 8;
  constexpr std::int64_t kKept = 4;
  cl::RouterArgs a;
  a.T = T;
  a.E = shape.E;
  a.K = shape.K;
  a.n_group = kGroups;
  a.topk_group = kKept;
  a.scoring = static_cast<int>(cpu::ScoringFunc::kSigmoid);
  a.method = static_cast<int>(cpu::TopkMethod::kNoauxTc);
  a.norm_topk_prob = true;
  return a;
}

KernelCase RouterCase(BenchMemory& memory, const ExpertsShape& shape, std::int64_t T) {
  KernelCase c;
  c.kernel = "router";
  c.shape = fmt::format("{}, {} of {} experts", Rows(T), shape.K, shape.E);
  c.format = Name(DType::kF32);
  c.bytes = static_cast<double>(T * (shape.E + 2 * shape.K)) * sizeof(float);
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    struct State {
      ClBuffer logits, bias, ids, weights;
    };
    const auto s =
        std::make_shared<State>(State{memory.Values(T * shape.E), memory.Values(shape.E),
                                      memory.Values(T * shape.K), memory.Values(T * shape.K)});
    cl::RouterArgs a = RouterOf(shape, T);
    a.logits = All(s->logits);
    a.bias = All(s->bias);
    a.ids = All(s->ids);
    a.weights = All(s->weights);
    return InTurn([s, a, &kernels](std::size_t) { kernels.Router(a); });
  };
  return c;
}

// The sum of the chosen experts of each row.
KernelCase CombineCase(BenchMemory& memory, const ExpertsShape& shape, std::int64_t T) {
  KernelCase c;
  c.kernel = "combine";
  c.shape = fmt::format("{}, {} experts of {}", Rows(T), shape.K, shape.D);
  c.format = Name(DType::kF32);
  c.bytes = static_cast<double>(T * shape.D * (shape.K + 2)) * sizeof(float);
  c.left_out = memory.WhyNot(0, static_cast<std::uint64_t>(T * shape.K * shape.D) * sizeof(float));
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    struct State {
      ClBuffer pair_out, pairs, y;
    };
    std::vector<std::int32_t> pairs;  // a row's are far from each other, as those of experts are
    for (std::int64_t i = 0; i < T * shape.K; ++i) {
      pairs.push_back(static_cast<std::int32_t>(i % shape.K * T + i / shape.K));
    }
    const auto s = std::make_shared<State>(State{memory.Values(T * shape.K * shape.D),
                                                 memory.Words(pairs), memory.Values(T * shape.D)});
    const cl::ExpertCombineArgs a{All(s->pair_out), All(s->pairs), T,      shape.K,
                                  shape.D,          All(s->y),     shape.D};
    return InTurn([s, a, &kernels](std::size_t) { kernels.ExpertCombine(a); });
  };
  return c;
}

KernelCase ArgmaxCase(BenchMemory& memory, std::int64_t rows, std::int64_t V) {
  KernelCase c;
  c.kernel = "argmax";
  c.shape = fmt::format("{} of {} logits", Rows(rows), V);
  c.format = Name(DType::kF32);
  c.bytes = static_cast<double>(rows * V) * sizeof(float);
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    struct State {
      ClBuffer logits, best;
    };
    const std::int64_t words = sizeof(cl::ArgmaxPart) / sizeof(float);
    const auto s = std::make_shared<State>(
        State{memory.Values(rows * V), memory.Values(rows * cl::kArgmaxParts * words)});
    const cl::ArgmaxArgs a{All(s->logits), rows, V, s->best.get()};
    return InTurn([s, a, &kernels](std::size_t) { kernels.Argmax(a); });
  };
  return c;
}

}  // namespace

std::vector<KernelCase> RowCases(const KernelGrid& grid, BenchMemory& memory) {
  std::vector<KernelCase> cases;
  for (const std::int64_t D : grid.widths) {
    for (const std::int64_t T : grid.tokens) cases.push_back(RmsNormCase(memory, T, D));
  }
  for (const ExpertsShape& shape : grid.experts) {
    for (const std::int64_t T : grid.tokens) cases.push_back(RouterCase(memory, shape, T));
    for (const std::int64_t T : grid.tokens) cases.push_back(CombineCase(memory, shape, T));
  }
  for (const std::int64_t rows : grid.sequences) {
    cases.push_back(ArgmaxCase(memory, rows, grid.vocab_size));
  }
  return cases;
}

}  // namespace tandem
