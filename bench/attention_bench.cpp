// Attention over a paged cache, one thread: keys per second and GFLOP/s, for the absorbed MLA of
// DeepSeek-V3 (128 heads, 576 and 512 wide) and V2-Lite (16 heads), and MHA of DeepSeekMoE.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu_kernels/attention.h"
#include "cpu_kernels/kernel_table.h"

namespace tandem::cpu {
namespace {

struct Shape {
  const char* name;
  bool mla;
  std::int64_t heads, dk, dv;
};
constexpr Shape kShapes[] = {{"mla_v3", true, 128, 576, 512},
                             {"mla_v2_lite", true, 16, 576, 512},
                             {"mha_moe_16b", false, 16, 128, 128}};

void Attention(benchmark::State& state, Isa isa, const Shape& shape, DType kv_type,
               std::int64_t n_keys) {
  const std::int64_t row = shape.mla ? shape.dk : shape.heads * (shape.dk + shape.dv);
  const std::int64_t blocks = (n_keys + kKvBlockTokens - 1) / kKvBlockTokens;
  const auto block_bytes = static_cast<std::size_t>(kKvBlockTokens * row) * BytesOf(kv_type);
  const std::vector<std::uint8_t> cache(static_cast<std::size_t>(blocks) * block_bytes, 0x3C);
  std::vector<const void*> pointers;
  for (std::int64_t b = 0; b < blocks; ++b) {
    pointers.push_back(cache.data() + static_cast<std::size_t>(b) * block_bytes);
  }
  const std::vector<float> q(static_cast<std::size_t>(shape.heads * shape.dk), 0.01F);
  std::vector<float> out(static_cast<std::size_t>(shape.heads * shape.dv));
  std::vector<float> scratch(
      static_cast<std::size_t>(AttentionScratchFloats(shape.heads, shape.dv)));
  AttentionArgs a;
  a.q = q.data();
  a.q_head_stride = shape.dk;
  a.blocks = pointers.data();
  a.kv_type = kv_type;
  a.token_stride = row;
  a.k_head_stride = shape.mla ? 0 : shape.dk;
  a.v_offset = shape.mla ? 0 : shape.heads * shape.dk;
  a.v_head_stride = shape.mla ? 0 : shape.dv;
  a.n_keys = n_keys;
  a.heads = shape.heads;
  a.dk = shape.dk;
  a.dv = shape.dv;
  a.scale = 1.0F / std::sqrt(static_cast<float>(shape.dk));
  a.out = out.data();
  a.out_head_stride = shape.dv;
  a.scratch = scratch.data();
  const auto kernel = MakeKernelTable(isa).attention;
  for (auto _ : state) {
    kernel(a);
    benchmark::ClobberMemory();
  }
  const auto keys = static_cast<double>(state.iterations()) * static_cast<double>(n_keys);
  const auto flops = 2e-9 * static_cast<double>(shape.heads * (shape.dk + shape.dv));
  state.counters["keys/s"] = benchmark::Counter(keys, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(keys * flops, benchmark::Counter::kIsRate);
}

}  // namespace
}  // namespace tandem::cpu

int main(int argc, char** argv) {
  for (const tandem::cpu::Isa isa : tandem::cpu::SupportedIsas()) {
    for (const auto& shape : tandem::cpu::kShapes) {
      for (const tandem::DType type : {tandem::DType::kF32, tandem::DType::kBF16}) {
        const std::string name = std::string(tandem::cpu::Name(isa)) + "/" + shape.name + "/" +
                                 std::string(tandem::Name(type)) + "/keys:2048";
        benchmark::RegisterBenchmark(name.c_str(), tandem::cpu::Attention, isa, shape, type, 2048);
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
