// Kernels of block formats on quantised rows, one thread or all: GB/s of weights and GOP/s, per
// level, format and number of rows, beside what this machine reads and multiplies at most.
//
//   quant_linear_bench --benchmark_filter='peak|avx512_vnni/Q4_K' --benchmark_repetitions=5
//
// The matrix is one expert of DeepSeek-V2-Lite with a K of whole blocks of 256, 1408 x 2048. Copies
// of it fill 256 MB a thread and are used in turn, so weights come from memory and not from the
// last-level cache. One thread is measured in CPU time, which other load on the machine disturbs
// less; all threads in wall time, with the rates of all together.
#include <benchmark/benchmark.h>
#include <immintrin.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "cpu_kernels/panel.h"

namespace tandem::cpu {
namespace {

constexpr std::int64_t kN = 1408;
constexpr std::int64_t kK = 2048;
constexpr std::size_t kWorkingSet = 256U << 20;

int AllThreads() { return static_cast<int>(std::thread::hardware_concurrency()); }

// 256 MB in huge pages for every thread, as the runtime holds weights.
std::byte* WorkingSet(int thread) {
  static std::vector<std::byte*> memory(static_cast<std::size_t>(AllThreads()));
  std::byte*& mine = memory[static_cast<std::size_t>(thread)];
  if (mine == nullptr) {
    void* p =
        mmap(nullptr, kWorkingSet, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, kWorkingSet, MADV_HUGEPAGE);
    std::memset(p, 0, kWorkingSet);
    mine = static_cast<std::byte*>(p);
  }
  return mine;
}

// Random codes, and scales that keep every value normal: subnormal inputs would measure the slow
// path of the multiplier.
std::vector<std::byte> RandomPanels(DType type) {
  std::vector<std::byte> blocks(DataBytes(type, kN * kK));
  std::mt19937 random(1);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto bits = static_cast<std::uint8_t>(random());
    blocks[i] = static_cast<std::byte>(i % 2 == 1 ? 0x38 | (bits & 7) : bits & 0x3F);
  }
  if (type == DType::kMXFP4) {
    for (std::size_t i = 0; i < blocks.size(); i += sizeof(BlockMXFP4)) blocks[i] = std::byte{120};
  }
  std::vector<std::byte> panels(PackedBytes(type, kN, kK) + 64);
  PackPanels(type, blocks.data(), kN, kK, panels.data());
  return panels;
}

std::size_t FillWeights(DType type, int thread) {
  const std::size_t bytes = PackedBytes(type, kN, kK);
  const std::vector<std::byte> panels = RandomPanels(type);
  const std::size_t copies = kWorkingSet / bytes;
  for (std::size_t i = 0; i < copies; ++i) {
    std::memcpy(WorkingSet(thread) + i * bytes, panels.data(), bytes);
  }
  return copies;
}

struct QuantisedRows {
  explicit QuantisedRows(std::int64_t T, const KernelTable& table)
      : codes(static_cast<std::size_t>(T * kK)), scale(codes.size() / 32), sum(codes.size() / 16) {
    std::vector<float> x(codes.size());
    std::mt19937 random(2);
    for (float& v : x) v = static_cast<float>(random() >> 8) * 0x1p-24F - 0.5F;
    QuantizeArgs a;
    a.x = x.data();
    a.x_stride = a.stride = a.K = kK;
    a.q = codes.data();
    a.scale = scale.data();
    a.sum = sum.data();
    a.T = T;
    table.quantize_rows(a);
  }
  std::vector<std::int8_t> codes;
  std::vector<float> scale;
  std::vector<std::int32_t> sum;
};

void Linear(benchmark::State& state, Isa isa, DType type, std::int64_t T) {
  const std::size_t copies = FillWeights(type, state.thread_index());
  const std::size_t bytes = PackedBytes(type, kN, kK);
  const KernelTable table = MakeKernelTable(isa);
  const QuantisedRows x(T, table);
  std::vector<float> y(static_cast<std::size_t>(T * kN));
  LinearArgs a;
  a.x = x.codes.data();
  a.x_type = DType::kI8;
  a.x_stride = kK;
  a.x_scale = x.scale.data();
  a.x_sum = x.sum.data();
  a.y = y.data();
  a.y_stride = kN;
  a.T = T;
  a.K = kK;
  a.n1 = kN;
  std::size_t copy = 0;
  for (auto _ : state) {
    a.w = WorkingSet(state.thread_index()) + copy * bytes;
    copy = (copy + 1) % copies;
    table.linear[static_cast<int>(type)](a);
    benchmark::ClobberMemory();
  }
  const auto calls = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(calls * static_cast<double>(bytes) / 1e9, benchmark::Counter::kIsRate);
  state.counters["GOP/s"] = benchmark::Counter(calls * 2e-9 * static_cast<double>(T * kN * kK),
                                               benchmark::Counter::kIsRate);
}

void Quantise(benchmark::State& state, Isa isa) {
  const KernelTable table = MakeKernelTable(isa);
  QuantisedRows to(16, table);
  const std::vector<float> x(to.codes.size(), 0.5F);
  QuantizeArgs a;
  a.x = x.data();
  a.x_stride = a.stride = a.K = kK;
  a.q = to.codes.data();
  a.scale = to.scale.data();
  a.sum = to.sum.data();
  a.T = 16;
  for (auto _ : state) {
    table.quantize_rows(a);
    benchmark::ClobberMemory();
  }
  state.counters["GB/s of f32"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(x.size()) * 4e-9,
      benchmark::Counter::kIsRate);
}

void Pack(benchmark::State& state, DType type) {
  const std::size_t bytes = PackedBytes(type, kN, kK);
  const std::size_t copies = kWorkingSet / bytes / 2;
  std::byte* memory = WorkingSet(state.thread_index());
  std::size_t copy = 0;
  for (auto _ : state) {
    PackPanels(type, memory + copy * bytes, kN, kK, memory + kWorkingSet / 2 + copy * bytes);
    copy = (copy + 1) % copies;
  }
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(bytes) * 1e-9,
      benchmark::Counter::kIsRate);
}

__attribute__((target("avx2"))) std::int64_t ReadAll(const std::byte* p, std::size_t bytes) {
  __m256i sums[4] = {};
  for (std::size_t i = 0; i < bytes; i += 128) {
    for (std::size_t j = 0; j < 4; ++j) {
      const auto* at = reinterpret_cast<const __m256i*>(p + i + 32 * j);
      sums[j] = _mm256_add_epi64(sums[j], _mm256_load_si256(at));
    }
  }
  const __m256i sum =
      _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
  return _mm256_extract_epi64(sum, 0) + _mm256_extract_epi64(sum, 3);
}

void PeakRead(benchmark::State& state) {
  const std::byte* memory = WorkingSet(state.thread_index());
  for (auto _ : state) benchmark::DoNotOptimize(ReadAll(memory, kWorkingSet));
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kWorkingSet / 1e9, benchmark::Counter::kIsRate);
}

// Independent accumulators in registers; the empty asm keeps them there and in every round.
__attribute__((target("avx512f,avx512vnni"))) void PeakVnni512(benchmark::State& state) {
  constexpr int kRounds = 1000;
  __m512i sums[12] = {};
  __m512i x = _mm512_set1_epi8(1);
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
      for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, x);
      asm volatile("" : "+v"(x));
    }
  }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
  state.counters["GOP/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kRounds * 12 * 128e-9, benchmark::Counter::kIsRate);
}
__attribute__((target("avx2,avxvnni"))) void PeakVnni256(benchmark::State& state) {
  constexpr int kRounds = 1000;
  __m256i sums[12] = {};
  __m256i x = _mm256_set1_epi8(1);
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
      for (__m256i& sum : sums) sum = _mm256_dpbusd_avx_epi32(sum, x, x);
      asm volatile("" : "+x"(x));
    }
  }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
  state.counters["GOP/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kRounds * 12 * 64e-9, benchmark::Counter::kIsRate);
}

void RegisterPeaks() {
  const Isa best = SupportedIsas().back();
  if (best >= Isa::kAvx2) benchmark::RegisterBenchmark("peak/read", PeakRead);
  if (best >= Isa::kAvx2) {
    benchmark::RegisterBenchmark("peak/read", PeakRead)->Threads(AllThreads())->UseRealTime();
  }
  if (Supports(Isa::kAvxVnni)) benchmark::RegisterBenchmark("peak/vpdpbusd_256", PeakVnni256);
  if (Supports(Isa::kAvx512Vnni)) benchmark::RegisterBenchmark("peak/vpdpbusd_512", PeakVnni512);
}

std::string NameOf(Isa isa, DType type, std::int64_t T) {
  return std::string(Name(isa)) + "/" + std::string(Name(type)) + "/T:" + std::to_string(T);
}

void RegisterKernels(Isa isa, DType type) {
  for (const std::int64_t T : {1, 2, 4, 8, 16, 64, 512}) {
    benchmark::RegisterBenchmark(NameOf(isa, type, T).c_str(), Linear, isa, type, T);
  }
  benchmark::RegisterBenchmark(NameOf(isa, type, 1).c_str(), Linear, isa, type, 1)
      ->Threads(AllThreads())
      ->UseRealTime();
}

}  // namespace
}  // namespace tandem::cpu

int main(int argc, char** argv) {
  using namespace tandem;
  cpu::RegisterPeaks();
  for (int i = kNumScalarFormats; i < kNumWeightFormats; ++i) {
    const auto type = static_cast<DType>(i);
    benchmark::RegisterBenchmark(("pack/" + std::string(Name(type))).c_str(), cpu::Pack, type);
  }
  for (const cpu::Isa isa : cpu::SupportedIsas()) {
    const std::string name = std::string(cpu::Name(isa)) + "/quantize_rows";
    benchmark::RegisterBenchmark(name.c_str(), cpu::Quantise, isa);
    for (int i = kNumScalarFormats; i < kNumWeightFormats; ++i) {
      cpu::RegisterKernels(isa, static_cast<DType>(i));
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
