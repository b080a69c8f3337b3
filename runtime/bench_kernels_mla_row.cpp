// MLA of one row over few keys, whole: as decode runs it, in the shape of DeepSeek-V2 and V3.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "runtime/bench_kernels_cases.h"
#include "runtime/kv_cache.h"

namespace tandem {
namespace {

constexpr std::int64_t kLatent = 512;
constexpr std::int64_t kRope = 64;
constexpr std::int64_t kWidth = kLatent + kRope;
constexpr std::int64_t kTokenBytes = 2 * kWidth;
constexpr std::int64_t kNope = 128;
constexpr std::int64_t kHeadOut = 128;
constexpr std::int64_t kHeadRows = kNope + kHeadOut;  // of kv_b
constexpr std::int64_t kQuery = kNope + kRope;
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
  s->matrices = memory.Matrices(weights, H * kHeadRows, kLatent);
  const std::int64_t blocks = kKeys / kKvBlock;
  std::vector<std::int32_t> words(static_cast<std::size_t>(blocks));
  std::iota(words.begin(), words.end(), 0);
  words.insert(words.end(), {0, static_cast<std::int32_t>(kKeys)});  // where its table starts; keys
  const std::int64_t splits = cl::MlaSplits(1, H, kKeys, memory.device().info().compute_units);
  const std::int64_t parts = H * std::max(splits, cl::kMlaOneRowSplits);
  s->q = memory.Values(H * kQuery);
  s->angles = memory.Values(kRope);
  s->absorbed = memory.Values(H * kWidth);
  s->kv = memory.Values(blocks * kKvBlock * kWidth / 2);
  s->batch = memory.Words(words);
  s->parts = memory.Values(parts * kLatent);
  s->lse = memory.Values(parts);
  s->out = memory.Values(H * kHeadOut);
  const cl::Span batch = All(s->batch);
  s->query = {All(s->q), H * kQuery, {},    All(s->angles), All(s->absorbed), 1,
              H,         kLatent,    kRope, kNope,          kHeadOut,         true};
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
  a.R = kLatent;
  a.d = kRope;
  a.scale = 0.05F;
  a.splits = splits;
  a.parts = All(s->parts);
  a.lse = All(s->lse);
  a.bf16 = true;
  s->output = {a.parts, a.lse, splits,  {},    All(s->out), H * kHeadOut,
               1,       H,     kLatent, kNope, kHeadOut,    true};
  return s;
}

}  // namespace

KernelCase MlaRowCase(BenchMemory& memory, std::int64_t H, DType weights) {
  KernelCase c;
  c.kernel = "mla_row";
  c.shape = fmt::format("1 row x {} heads, {} keys, queries to outputs", H, kKeys);
  c.format = Name(weights);
  const std::size_t matrix = BenchMemory::MatrixBytes(weights, H * kHeadRows, kLatent);
  c.bytes = static_cast<double>(matrix) + static_cast<double>(kKeys * kTokenBytes) +
            static_cast<double>(H * (kQuery + kHeadOut)) * sizeof(float);
  c.flops = 2.0 * static_cast<double>(H * kHeadRows * kLatent) +
            2.0 * static_cast<double>(H * kKeys * (kWidth + kLatent));
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
