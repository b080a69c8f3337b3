// Linear kernels: GB/s of weights (few rows) and GFLOP/s (many rows), one thread, per level, format
// and number of rows, beside what one thread of this machine reads and computes at most.
//
//   linear_bench --benchmark_filter='avx512/BF16' --benchmark_repetitions=5
//
// The matrix is one expert of DeepSeek-V2-Lite, 1408 x 2048. Copies of it fill 256 MB and are used
// in turn, so weights come from memory and not from the last-level cache. Times are CPU time of the
// thread: other load on the machine disturbs them less.
#include <benchmark/benchmark.h>
#include <immintrin.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"

namespace tandem::cpu {
namespace {

constexpr std::int64_t kN = 1408;
constexpr std::int64_t kK = 2048;
constexpr std::size_t kWorkingSet = 256U << 20;
constexpr DType kFormats[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};

// 256 MB in huge pages, as the runtime holds weights.
std::uint8_t* WorkingSet() {
  static std::uint8_t* memory = [] {
    void* p =
        mmap(nullptr, kWorkingSet, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, kWorkingSet, MADV_HUGEPAGE);
    return static_cast<std::uint8_t*>(p);
  }();
  return memory;
}

std::uint8_t RandomByte(std::mt19937& random, std::size_t position) {
  const auto bits = static_cast<std::uint8_t>(random());
  return position % 2 == 1 ? 0x38 | (bits & 7) : bits & 0x3F;
}

// Copies of one random matrix. Odd bytes 0x38 to 0x3F make every format's values normal and below
// 2: subnormal inputs would measure the slow path of the multiplier.
std::size_t FillWeights(DType format) {
  const std::size_t bytes = static_cast<std::size_t>(kN * kK) * BytesOf(format);
  std::mt19937 random(1);
  std::uint8_t* memory = WorkingSet();
  for (std::size_t i = 0; i < bytes; ++i) memory[i] = RandomByte(random, i);
  const std::size_t copies = kWorkingSet / bytes;
  for (std::size_t i = 1; i < copies; ++i) std::memcpy(memory + i * bytes, memory, bytes);
  return copies;
}

void Linear(benchmark::State& state, Isa isa, DType format, DType x_type, std::int64_t T) {
  const std::size_t copies = FillWeights(format);
  const std::size_t bytes = static_cast<std::size_t>(kN * kK) * BytesOf(format);
  std::vector<float> x(static_cast<std::size_t>(T * kK), 0.5F);  // as bf16: 0.5 and 0 in turn
  std::vector<float> y(static_cast<std::size_t>(T * kN));
  const std::vector<float> scales((kN / 128) * (kK / 128), 0.25F);
  LinearArgs a;
  a.x = x.data();
  a.x_type = x_type;
  a.x_stride = kK;
  a.w_scale = scales.data();
  a.scale_stride = kK / 128;
  a.y = y.data();
  a.y_stride = kN;
  a.T = T;
  a.K = kK;
  a.n1 = kN;
  const auto kernel = MakeKernelTable(isa).linear[static_cast<int>(format)];
  std::size_t copy = 0;
  for (auto _ : state) {
    a.w = WorkingSet() + copy * bytes;
    copy = (copy + 1) % copies;
    kernel(a);
    benchmark::ClobberMemory();
  }
  const auto calls = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(calls * static_cast<double>(bytes) / 1e9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(calls * 2e-9 * static_cast<double>(T * kN * kK),
                                                 benchmark::Counter::kIsRate);
}

__attribute__((target("avx2"))) std::int64_t ReadAll(const std::uint8_t* p, std::size_t bytes) {
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
  FillWeights(DType::kF32);
  for (auto _ : state) benchmark::DoNotOptimize(ReadAll(WorkingSet(), kWorkingSet));
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kWorkingSet / 1e9, benchmark::Counter::kIsRate);
}

// Independent accumulators in registers; the empty asm keeps them there and in every round.
#define TANDEM_PEAK(name, isa_flags, Vector, zero, step, flops)                                    \
  __attribute__((target(isa_flags))) void name(benchmark::State& state) {                          \
    constexpr int kRounds = 1000;                                                                  \
    Vector a0 = zero, a1 = zero, a2 = zero, a3 = zero, a4 = zero, a5 = zero, a6 = zero, a7 = zero, \
           a8 = zero, a9 = zero, x = zero;                                                         \
    for (auto _ : state) {                                                                         \
      for (int i = 0; i < kRounds; ++i) {                                                          \
        step(a0);                                                                                  \
        step(a1);                                                                                  \
        step(a2);                                                                                  \
        step(a3);                                                                                  \
        step(a4);                                                                                  \
        step(a5);                                                                                  \
        step(a6);                                                                                  \
        step(a7);                                                                                  \
        step(a8);                                                                                  \
        step(a9);                                                                                  \
        asm volatile(""                                                                            \
                     : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3), "+v"(a4), "+v"(a5), "+v"(a6),       \
                       "+v"(a7), "+v"(a8), "+v"(a9), "+v"(x));                                     \
      }                                                                                            \
    }                                                                                              \
    state.counters["GFLOP/s"] =                                                                    \
        benchmark::Counter(static_cast<double>(state.iterations()) * kRounds * 10 * (flops)*1e-9,  \
                           benchmark::Counter::kIsRate);                                           \
  }
#define FMA256(a) a = _mm256_fmadd_ps(x, x, a)
#define FMA512(a) a = _mm512_fmadd_ps(x, x, a)
#define DPBF16(a) a = _mm512_dpbf16_ps(a, (__m512bh)x, (__m512bh)x)
TANDEM_PEAK(PeakFma256, "avx2,fma", __m256, _mm256_setzero_ps(), FMA256, 16)
TANDEM_PEAK(PeakFma512, "avx512f", __m512, _mm512_setzero_ps(), FMA512, 32)
TANDEM_PEAK(PeakDpbf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), DPBF16, 64)

void RegisterPeaks() {
  const Isa best = SupportedIsas().back();
  if (best >= Isa::kAvx2) benchmark::RegisterBenchmark("peak/read", PeakRead);
  if (best >= Isa::kAvx2) benchmark::RegisterBenchmark("peak/avx2_fma", PeakFma256);
  if (best >= Isa::kAvx512) benchmark::RegisterBenchmark("peak/avx512_fma", PeakFma512);
  if (best >= Isa::kAvx512Bf16) benchmark::RegisterBenchmark("peak/vdpbf16ps", PeakDpbf16);
}

void RegisterKernels(Isa isa, DType format, DType x_type) {
  for (const std::int64_t T : {1, 2, 4, 8, 16, 64, 256, 512}) {
    const std::string name = std::string(Name(isa)) + "/" + std::string(Name(format)) + "/x_" +
                             std::string(Name(x_type)) + "/T:" + std::to_string(T);
    benchmark::RegisterBenchmark(name.c_str(), Linear, isa, format, x_type, T);
  }
}

}  // namespace
}  // namespace tandem::cpu

int main(int argc, char** argv) {
  tandem::cpu::RegisterPeaks();
  for (const tandem::cpu::Isa isa : tandem::cpu::SupportedIsas()) {
    for (const tandem::DType format : tandem::cpu::kFormats) {
      tandem::cpu::RegisterKernels(isa, format, tandem::DType::kF32);
      tandem::cpu::RegisterKernels(isa, format, tandem::DType::kBF16);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
