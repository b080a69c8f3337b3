// Products of few rows (decode: bound by reading the weights) and of many (prefill).
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cl_kernels/gemm.h"
#include "memory/split_layout.h"
#include "runtime/bench_kernels_cases.h"

namespace tandem {
namespace {

struct LinearState {
  std::vector<cl::Weight> matrices;
  ClBuffer x, y, work;
  cl::LinearArgs args;
};

// `x_type`: what x may be rounded to; F32: nothing.
std::shared_ptr<LinearState> PrepareLinear(BenchMemory& memory, DType type, std::int64_t N,
                                           std::int64_t K, std::int64_t rows, DType x_type) {
  auto state = std::make_shared<LinearState>();
  memory.Fill(type);
  state->matrices = memory.Matrices(type, N, K);
  state->x = memory.Values(rows * K);
  state->y = memory.Values(rows * N);
  state->work = memory.Values(cl::GemmWorkFloats(rows, K));
  cl::LinearArgs& a = state->args;
  a.x = All(state->x);
  a.x_stride = K;
  a.y = All(state->y);
  a.y_stride = N;
  a.T = rows;
  a.bf16 = x_type != DType::kF32;
  a.fp8 = x_type == DType::kF8E4M3;
  a.work = All(state->work);
  return state;
}

KernelCase LinearCase(BenchMemory& memory, DType type, std::int64_t N, std::int64_t K,
                      std::int64_t rows, DType x_type = DType::kBF16) {
  KernelCase c;
  c.kernel = x_type == DType::kF32      ? "linear_f32"
             : x_type == DType::kF8E4M3 ? "linear_f8"
                                        : "linear";
  c.shape = fmt::format("{} x {}, {} row{}", N, K, rows, rows == 1 ? "" : "s");
  c.format = Name(type);
  c.bytes = static_cast<double>(BenchMemory::MatrixBytes(type, N, K)) +
            static_cast<double>(rows * (N + K)) * sizeof(float);
  c.flops = 2.0 * static_cast<double>(N * K * rows);
  c.left_out = memory.WhyNot(BenchMemory::MatrixBytes(type, N, K),
                             static_cast<std::uint64_t>(rows * std::max(N, K)) * sizeof(float));
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    const auto state = PrepareLinear(memory, type, N, K, rows, x_type);
    const auto one = [state, &kernels](std::size_t i) {
      state->args.w = state->matrices[i % state->matrices.size()];
      kernels.Linear(state->args);
    };
    return PreparedKernel(InTurn(one), state->y);
  };
  return c;
}

}  // namespace

std::vector<KernelCase> ProductCases(const KernelGrid& grid, BenchMemory& memory) {
  std::vector<KernelCase> cases;
  const auto add = [&](const auto& formats, const auto& shapes, const auto& rows) {
    for (const DType type : formats) {
      for (const auto& [N, K] : shapes) {
        for (const std::int64_t T : rows) {
          if (K % BlockElements(type) == 0) cases.push_back(LinearCase(memory, type, N, K, T));
        }
      }
    }
  };
  add(grid.decode_formats, grid.matrices, grid.decode_rows);
  add(grid.prefill_formats, grid.wide_matrices, grid.prefill_rows);
  for (const auto& [N, K] : grid.wide_matrices) {
    for (const std::int64_t T : grid.prefill_rows) {
      cases.push_back(LinearCase(memory, DType::kF32, N, K, T, DType::kF32));
      cases.push_back(LinearCase(memory, DType::kF8E4M3, N, K, T, DType::kF8E4M3));
    }
  }
  return cases;
}

}  // namespace tandem
