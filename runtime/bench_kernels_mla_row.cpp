// MLA of one row over few keys, whole: as decode runs it, in the shape of DeepSeek-V2 and V3.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "runtime/bench_kernels_cases.h"
#include "runtime/bench_kernels_mla_shape.h"
#include "runtime/kv_cache.h"

namespace tandem {
namespace {

constexpr std::int64_t kTokenBytes = 2 * kMlaWidth;
constexpr std::int64_t kKeys = 128;  // one launch takes few

// A row from its queries to the outputs of its heads, in one launch where the device has that, else
// in three.
struct OneRowState {
  std::vector<cl::Weight> matrices;
  ClBuffer q, angles, absorbed, kv, batch, parts, lse, out;
  cl::MlaQueryArgs query;
  cl::MlaAttentionArgs attention;
  cl::MlaOutputArgs output;
};

std::shared_ptr<OneRowState> PrepareOneRow(BenchMemory& memory, std::int64_t H, DType weights) {
  auto s = std::make_shared<OneRowState>();
  memory.Fill(weights);
  s->matrices = memory.Matrices(weights, H * kMlaHeadRows, kMlaLatent);
  const std::int64_t blocks = kKeys / kKvBlock;
  std::vector<std::int32_t> words(static_cast<std::size_t>(blocks));
  std::iota(words.begin(), words.end(), 0);
  words.insert(words.end(), {0, static_cast<std::int32_t>(kKeys)});  // where its table starts; keys
  const std::int64_t splits = cl::MlaSplits(1, H, kKeys, memory.device().info().compute_units);
  const std::int64_t parts = H * std::max(splits, cl::kMlaOneRowSplits);
  s->q = memory.Values(H * kMlaQuery);
  s->angles = memory.Values(kMlaRope);
  s->absorbed = memory.Values(H * kMlaWidth);
  s->kv = memory.Values(blocks * kKvBlock * kMlaWidth / 2);
  s->batch = memory.Words(words);
  s->parts = memory.Values(parts * kMlaLatent);
  s->lse = memory.Values(parts);
  s->out = memory.Values(H * kMlaHeadOut);
  const cl::Span batch = All(s->batch);
  s->query = {All(s->q), H * kMlaQuery, {},       All(s->angles), All(s->absorbed), 1,
              H,         kMlaLatent,    kMlaRope, kMlaNope,       kMlaHeadOut,      true};
  cl::MlaAttentionArgs& a = s->attention;
  a.q = s->query.y;
  a.kv = s->kv.get();
  a.kv_type = DType::kF16;
  a.tables = batch;
  a.table_start = {batch.buffer, blocks};
  a.n_keys = {batch.buffer, blocks + 1};
  a.max_keys = kKeys;
  a.T = 1;
  a.H = H;
  a.R = kMlaLatent;
  a.d = kMlaRope;
  a.scale = 0.05F;
  a.splits = splits;
  a.parts = All(s->parts);
  a.lse = All(s->lse);
  a.bf16 = true;
  s->output = {a.parts, a.lse, splits,     {},       All(s->out), H * kMlaHeadOut,
               1,       H,     kMlaLatent, kMlaNope, kMlaHeadOut, true};
  return s;
}

}  // namespace

KernelCase MlaRowCase(BenchMemory& memory, std::int64_t H, DType weights) {
  KernelCase c;
  c.kernel = "mla_row";
  c.shape = fmt::format("1 row x {} heads, {} keys, queries to outputs", H, kKeys);
  c.format = Name(weights);
  const std::size_t matrix = BenchMemory::MatrixBytes(weights, H * kMlaHeadRows, kMlaLatent);
  c.bytes = static_cast<double>(matrix) + static_cast<double>(kKeys * kTokenBytes) +
            static_cast<double>(H * (kMlaQuery + kMlaHeadOut)) * sizeof(float);
  c.flops = 2.0 * static_cast<double>(H * kMlaHeadRows * kMlaLatent) +
            2.0 * static_cast<double>(H * kKeys * (kMlaWidth + kMlaLatent));
  c.left_out = memory.WhyNot(matrix, 0);
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    const auto s = PrepareOneRow(memory, H, weights);
    return InTurn([s, &kernels](std::size_t i) {
      s->query.w.kv_b = s->output.w.kv_b = s->matrices[i % s->matrices.size()];
      if (kernels.MlaOneRow(s->query, s->attention, s->output)) return;
      kernels.MlaQuery(s->query);
      kernels.MlaAttention(s->attention);
      kernels.MlaOutput(s->output);
    });
  };
  return c;
}

}  // namespace tandem
