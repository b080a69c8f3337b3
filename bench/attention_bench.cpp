// Attention over a paged cache, one thread. Decode: one row's heads in the absorbed form, with the
// rate at which the cache is read. Prefill: 512 rows of one head in the expanded form, keys and
// values made. Shapes of DeepSeek-V2-Lite (16 heads), V3 (128 heads) and DeepSeekMoE's MHA.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu_kernels/attention.h"
#include "cpu_kernels/kernel_table.h"

namespace tandem::cpu {
namespace {

using Kernel = void (*)(const AttentionArgs&);

// Queries over a cache of one sequence.
struct Problem {
  Problem(std::int64_t n, std::int64_t dk, std::int64_t dv, std::int64_t width, DType type,
          std::int64_t keys) {
    const KvLayout layout{type, width, dv};
    const std::int64_t bytes = KvRowBytes(layout);
    const std::int64_t blocks = (keys + kKvBlockTokens - 1) / kKvBlockTokens;
    cache.assign(static_cast<std::size_t>(blocks * kKvBlockTokens * bytes), 0x3C);
    for (std::int64_t b = 0; b < blocks; ++b) {
      pointers.push_back(cache.data() + b * kKvBlockTokens * bytes);
    }
    q.assign(static_cast<std::size_t>(n * dk), 0.01F);
    out.assign(static_cast<std::size_t>(n * dv), 0);
    state.assign(static_cast<std::size_t>(2 * n), 0);
    n_keys.assign(static_cast<std::size_t>(n), static_cast<std::int32_t>(keys));
    scratch.assign(static_cast<std::size_t>(AttentionScratchFloats(dk, dv)), 0);
    packed.assign(static_cast<std::size_t>(PackedQueryFloats(n, dk)), 0);
    a.q = q.data();
    a.q_stride = a.dk = dk;
    a.n = n;
    a.blocks = pointers.data();
    a.kv_type = type;
    a.token_bytes = bytes;
    a.last_key = keys;
    a.n_keys = n_keys.data();
    a.dv = a.out_stride = dv;
    a.scale = 1.0F / std::sqrt(static_cast<float>(dk));
    a.out = out.data();
    a.maximum = state.data();
    a.sum = state.data() + n;
    a.scratch = scratch.data();
    a.packed = packed.data();
  }

  std::vector<std::uint8_t> cache;
  std::vector<const void*> pointers;
  std::vector<float> q, out, state, scratch, packed;
  std::vector<std::int32_t> n_keys;
  AttentionArgs a;
};

void Run(benchmark::State& state, Kernel kernel, const Problem& p) {
  for (auto _ : state) {
    kernel(p.a);
    benchmark::ClobberMemory();
  }
  const auto rate = [](double per_run) {
    return benchmark::Counter(per_run, benchmark::Counter::kIsIterationInvariantRate);
  };
  const auto pairs = static_cast<double>(p.a.n * p.a.last_key);
  state.counters["GFLOP/s"] = rate(2e-9 * pairs * static_cast<double>(p.a.dk + p.a.dv));
  state.counters["GB/s"] = rate(1e-9 * static_cast<double>(p.cache.size()));
}

struct Shape {
  const char* name;
  bool mla;
  std::int64_t heads, dk, dv;
};
constexpr Shape kDecode[] = {{"mla_v3", true, 128, 576, 512},
                             {"mla_v2_lite", true, 16, 576, 512},
                             {"mha_moe_16b", false, 16, 128, 128}};

void Decode(benchmark::State& state, Kernel kernel, const Shape& s, DType type, std::int64_t keys) {
  Problem p(s.heads, s.dk, s.dv, s.mla ? s.dk : s.heads * (s.dk + s.dv), type, keys);
  p.a.k_head_stride = s.mla ? 0 : s.dk;
  p.a.v_offset = s.mla ? 0 : s.heads * s.dk;
  p.a.v_head_stride = s.mla ? 0 : s.dv;
  Run(state, kernel, p);
}

void Prefill(benchmark::State& state, Kernel kernel, DType type, std::int64_t keys) {
  Problem p(512, 192, 128, 320, type, keys);
  p.a.v_offset = 192;
  Run(state, kernel, p);
}

void Register(const std::string& name, Kernel kernel, bool tiles) {
  for (const std::int64_t keys : {1024, 4096, 16384}) {
    const std::string suffix = "/keys:" + std::to_string(keys);
    for (const Shape& s : kDecode) {
      for (const DType type :
           {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kF8E4M3}) {
        if (!s.mla && (tiles || type == DType::kQ8_0 || type == DType::kF8E4M3)) continue;
        benchmark::RegisterBenchmark(
            (name + "/decode/" + s.name + "/" + std::string(Name(type)) + suffix).c_str(), Decode,
            kernel, s, type, keys);
      }
    }
    benchmark::RegisterBenchmark((name + "/prefill/head_of_512_rows" + suffix).c_str(), Prefill,
                                 kernel, tiles ? DType::kBF16 : DType::kF32, keys);
  }
}

}  // namespace
}  // namespace tandem::cpu

int main(int argc, char** argv) {
  for (const tandem::cpu::Isa isa : tandem::cpu::SupportedIsas()) {
    if (isa == tandem::cpu::Isa::kRef) continue;
    const tandem::cpu::KernelTable table = tandem::cpu::MakeKernelTable(isa);
    const std::string name(tandem::cpu::Name(isa));
    tandem::cpu::Register(name, table.attention, false);
    if (table.attention_bf16 != nullptr) {
      tandem::cpu::Register(name + "_bf16", table.attention_bf16, true);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
