#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cl_kernels/kernels.h"
#include "memory/dtype.h"
#include "runtime/bench_kernels_memory.h"

namespace tandem {

// Makes so many calls, back to back.
using KernelRun = std::function<void(int)>;

// A kernel with its memory.
struct PreparedKernel {
  PreparedKernel(KernelRun r) : run(std::move(r)) {}  // NOLINT: cases give a run
  PreparedKernel(KernelRun r, const ClBuffer& out) : run(std::move(r)), result(&out) {}

  KernelRun run;
  const ClBuffer* result =
      nullptr;  // f32 that the first call writes, which `run` keeps; null: none
};

// One kernel in one shape and format.
struct KernelCase {
  std::string kernel, shape, format;
  double bytes = 0;
  double flops = 0;
  bool has_second = true;  // works with other traits than the device's
  std::string left_out;    // why it cannot be measured here; empty: it can
  // Memory for it, which the result owns. The BenchMemory and the kernels must outlive that.
  std::function<PreparedKernel(cl::Kernels&)> prepare;
};

// one(i) for the calls i = 0, 1, ... of all batches.
template <class One>
KernelRun InTurn(One one) {
  return [one = std::move(one), next = std::size_t{0}](int calls) mutable {
    for (int i = 0; i < calls; ++i) one(next++);
  };
}

struct ExpertsShape {
  std::string name;
  std::int64_t D = 0, F = 0;
  std::int64_t E = 0, K = 0;  // experts of a layer, chosen ones of a row
};

// Which shapes are measured.
struct KernelGrid {
  std::vector<std::pair<std::int64_t, std::int64_t>> matrices, wide_matrices;  // rows, columns
  std::vector<DType> decode_formats, prefill_formats;
  std::vector<std::int64_t> decode_rows, prefill_rows;
  std::vector<ExpertsShape> experts;
  std::vector<DType> expert_formats;
  std::vector<std::int64_t> expert_tokens;  // each row's experts are others
  std::int64_t expert_rows = 64;            // rows of every expert in prefill
  std::int64_t most_experts = 64;           // at once in prefill
  std::vector<std::int64_t> heads, sequences, keys;
  std::vector<DType> kv_types, head_formats;
  std::vector<std::int64_t> widths, tokens;  // of what is done row by row
  std::int64_t vocab_size = 0;
};
KernelGrid GridOf(const ClDeviceInfo& device, bool quick);

// Everything that the grid asks for, in the order of a report. `memory` must outlive the cases.
std::vector<KernelCase> ProductCases(const KernelGrid& grid, BenchMemory& memory);
std::vector<KernelCase> ExpertCases(const KernelGrid& grid, BenchMemory& memory);
std::vector<KernelCase> RowCases(const KernelGrid& grid, BenchMemory& memory);
// A row through MLA, whole; a part of MlaCases.
KernelCase MlaRowCase(BenchMemory& memory, std::int64_t H, DType weights);
std::vector<KernelCase> MlaCases(const KernelGrid& grid, BenchMemory& memory);
std::vector<KernelCase> HandOverCases(const KernelGrid& grid, BenchMemory& memory);

}  // namespace tandem
