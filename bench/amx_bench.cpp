// Products of many rows by AMX tiles beside the best level without them, TFLOP/s of one expert's
// matrix, with the bare peaks of tdpbf16ps and vpdpbusd measured in the same run.
//
//   amx_bench [seconds per cell, 0.1] [threads, all] [formats: BF16,Q8_0,Q4_K]
//
// Every cell is the best of five turns, the levels in alternation. Copies of a matrix fill 512 MB
// and are used in turn, so weights come from memory. Threads take tickets of rows of w, as the
// runtime's team does.
#include <fmt/format.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "memory/blocks.h"
#include "memory/host_buffer.h"

namespace tandem::cpu {
namespace {

constexpr std::size_t kWorkingSet = 512U << 20;
constexpr std::int64_t kRowCounts[] = {1,  2,  4,   8,   12,  16,   24,  32,
                                       48, 64, 128, 256, 512, 1024, 4096};
constexpr int kTurns = 5;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Pinned threads that all run one function and wait for each other.
class Team {
 public:
  explicit Team(int threads) : start_(threads + 1), end_(threads + 1) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { Serve(i); });
  }
  ~Team() {
    work_ = nullptr;
    start_.arrive_and_wait();
  }
  void Run(std::function<void(int)> work) {
    work_ = std::move(work);
    start_.arrive_and_wait();
    end_.arrive_and_wait();
  }
  int size() const { return static_cast<int>(threads_.size()); }

 private:
  void Serve(int index) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(index), &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    while (true) {
      start_.arrive_and_wait();
      if (!work_) return;
      work_(index);
      end_.arrive_and_wait();
    }
  }

  std::function<void(int)> work_;
  std::barrier<> start_, end_;
  std::vector<std::jthread> threads_;
};

// In assembly, so that nothing but ten independent products is measured.
__attribute__((target("avx512f,avx512vnni"))) void VnniProducts(std::int64_t rounds) {
  for (std::int64_t i = 0; i < rounds; ++i) {
    asm volatile(
        "vpdpbusd %%zmm10, %%zmm10, %%zmm0\n\tvpdpbusd %%zmm10, %%zmm10, %%zmm1\n\t"
        "vpdpbusd %%zmm10, %%zmm10, %%zmm2\n\tvpdpbusd %%zmm10, %%zmm10, %%zmm3\n\t"
        "vpdpbusd %%zmm10, %%zmm10, %%zmm4\n\tvpdpbusd %%zmm10, %%zmm10, %%zmm5\n\t"
        "vpdpbusd %%zmm10, %%zmm10, %%zmm6\n\tvpdpbusd %%zmm10, %%zmm10, %%zmm7\n\t"
        "vpdpbusd %%zmm10, %%zmm10, %%zmm8\n\tvpdpbusd %%zmm10, %%zmm10, %%zmm9"
        :
        :
        : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9");
  }
}

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t reserved[15] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

__attribute__((target("amx-tile,amx-bf16"))) void TileProducts(std::int64_t rounds) {
  const TileConfig config;
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  for (std::int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

// Tera-operations a second of the team, best of five.
double Peak(Team& team, void (*work)(std::int64_t), double operations_per_round) {
  constexpr std::int64_t kRounds = 1'000'000;
  double best = 0;
  for (int turn = 0; turn < kTurns; ++turn) {
    const double start = Now();
    team.Run([&](int) { work(kRounds); });
    best = std::max(best, operations_per_round * kRounds * team.size() / (Now() - start) * 1e-12);
  }
  return best;
}

// Odd bytes 0x38 to 0x3F make f16 and bf16 scales and values normal and below 2.
void FillRandom(std::byte* p, std::size_t bytes) {
  std::mt19937 random(1);
  for (std::size_t i = 0; i < bytes; ++i) {
    const auto bits = static_cast<unsigned>(random());
    p[i] = static_cast<std::byte>(i % 2 == 1 ? 0x38 | (bits & 7) : bits & 0x3F);
  }
}

struct Shape {
  DType format;
  std::int64_t N, K;
};

// One expert's matrix, and rows of x in every type that kernels take.
class Expert {
 public:
  Expert(Shape shape, const HostBuffer& memory, const KernelTable& table)
      : shape_(shape), memory_(memory), bytes_(PackedOrPlainBytes(shape)) {
    FillRandom(memory.data(), bytes_);
    copies_ = static_cast<std::int64_t>(memory.bytes() / bytes_);
    for (std::int64_t i = 1; i < copies_; ++i) {
      std::copy_n(memory.data(), bytes_, memory.data() + static_cast<std::size_t>(i) * bytes_);
    }
    FillX(table);
  }

  // All threads multiply the first T rows of x; TFLOP/s.
  double Run(Team& team, void (*kernel)(const LinearArgs&), DType x_type, std::int64_t T,
             double seconds) {
    const double operations = 2e-12 * static_cast<double>(T * shape_.N * shape_.K);
    const double start = Now();
    std::int64_t calls = 0;
    do {
      Call(team, kernel, x_type, T);
      ++calls;
    } while (Now() - start < seconds);
    return operations * static_cast<double>(calls) / (Now() - start);
  }

 private:
  static std::size_t PackedOrPlainBytes(const Shape& s) {
    return IsBlockFormat(s.format) ? PackedBytes(s.format, s.N, s.K)
                                   : DataBytes(s.format, s.N * s.K);
  }
  void FillX(const KernelTable& table) {
    const std::int64_t values = kRowCounts[std::size(kRowCounts) - 1] * shape_.K;
    x_.resize(static_cast<std::size_t>(values));
    std::mt19937 random(2);
    for (float& v : x_) v = static_cast<float>(random() % 2048) / 1024.0F - 1.0F;
    bf16_.resize(x_.size());
    table.to_bf16({x_.data(), bf16_.data(), values});
    q_.resize(x_.size());
    scale_.resize(x_.size() / 32);
    sum_.resize(x_.size() / 16);
    table.quantize_rows({x_.data(), shape_.K, q_.data(), scale_.data(), sum_.data(), shape_.K,
                         values / shape_.K, shape_.K});
    y_.resize(static_cast<std::size_t>(values / shape_.K * shape_.N));
  }
  LinearArgs Args(DType x_type, std::int64_t T) {
    LinearArgs a;
    a.x = x_type == DType::kI8 ? static_cast<const void*>(q_.data()) : bf16_.data();
    a.x_type = x_type;
    a.x_scale = scale_.data();
    a.x_sum = sum_.data();
    a.x_stride = a.K = shape_.K;
    a.w = memory_.data() + static_cast<std::size_t>(turn_++ % copies_) * bytes_;
    a.y = y_.data();
    a.y_stride = shape_.N;
    a.T = T;
    return a;
  }
  void Call(Team& team, void (*kernel)(const LinearArgs&), DType x_type, std::int64_t T) {
    const LinearArgs args = Args(x_type, T);
    // Large tickets where there are many rows of x, but at least two for every thread.
    const std::int64_t step = std::clamp(shape_.N / (team.size() * 2) / 32 * 32, std::int64_t{32},
                                         std::int64_t{T < 64 ? 128 : 256});
    std::atomic<std::int64_t> next = 0;
    team.Run([&](int) {
      LinearArgs mine = args;
      while ((mine.n0 = next.fetch_add(step)) < shape_.N) {
        mine.n1 = std::min(shape_.N, mine.n0 + step);
        kernel(mine);
      }
    });
  }

  Shape shape_;
  const HostBuffer& memory_;
  std::size_t bytes_;
  std::int64_t copies_ = 0, turn_ = 0;
  std::vector<float> x_, scale_, y_;
  std::vector<std::uint16_t> bf16_;
  std::vector<std::int8_t> q_;
  std::vector<std::int32_t> sum_;
};

struct Options {
  double seconds = 0.1;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  std::string formats = "BF16,Q8_0,Q4_K";
};

void PrintShape(Team& team, const HostBuffer& memory, Shape shape, double seconds) {
  const KernelTable with = MakeKernelTable(Isa::kAmx);
  const KernelTable without = MakeKernelTable(Isa::kAvx512Bf16);
  const auto format = static_cast<std::size_t>(shape.format);
  const ManyRows& many = with.many[format];
  const DType few_x = IsBlockFormat(shape.format) ? DType::kI8 : DType::kBF16;
  Expert expert(shape, memory, without);
  fmt::print("\n{} N {} K {}, {} threads, TFLOP/s\n{:>6} {:>8} {:>8} {:>6}\n", Name(shape.format),
             shape.N, shape.K, team.size(), "rows", "AMX", "without", "ratio");
  for (const std::int64_t T : kRowCounts) {
    double amx = 0, other = 0;
    for (int turn = 0; turn < kTurns; ++turn) {
      amx = std::max(amx, expert.Run(team, many.linear, many.x_type, T, seconds / kTurns));
      other = std::max(other, expert.Run(team, without.linear[format], few_x, T, seconds / kTurns));
    }
    fmt::print("{:>6} {:>8.3f} {:>8.3f} {:>6.2f}{}\n", T, amx, other, amx / other,
               T < many.min_rows ? "  (the runtime calls the latter)" : "");
  }
}

void PrintAll(const Options& options, int threads) {
  Team team(threads);
  const HostBuffer memory(kWorkingSet);
  fmt::print("\n{} threads: tdpbf16ps {:.2f} TFLOP/s, vpdpbusd {:.2f} TOP/s\n", threads,
             Peak(team, TileProducts, 4.0 * 16 * 16 * 32 * 2),
             Peak(team, VnniProducts, 10.0 * 64 * 2));
  for (const DType format : {DType::kBF16, DType::kQ8_0, DType::kQ4_K}) {
    if (options.formats.find(Name(format)) == std::string::npos) continue;
    for (const std::int64_t N : {1408, 2048}) {
      for (const std::int64_t K : {2048, 7168}) {
        PrintShape(team, memory, {format, N, K}, options.seconds);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::cpu

int main(int argc, char** argv) {
  using namespace tandem::cpu;
  if (!Supports(Isa::kAmx)) {
    fmt::print("this CPU or its kernel offers no AMX tiles\n");
    return 1;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  Options options;
  if (argc > 1) options.seconds = std::atof(argv[1]);
  if (argc > 2) options.threads = std::atoi(argv[2]);
  if (argc > 3) options.formats = argv[3];
  PrintAll(options, 1);
  if (options.threads > 1) PrintAll(options, options.threads);
}
