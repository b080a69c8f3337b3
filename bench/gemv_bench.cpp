// Products of few rows of x on the first OpenCL device, beside the rate at which it streams memory:
//   gemv_bench [--rows | --one | --small] [format ...]
// --rows: one to 32 rows, each in every form that takes them; --one: one row only; --small: one row
// of V2-Lite's products, which take the host longer to enqueue than a GPU to compute.
// Launches follow each other in one queue, over different weights, so that no cache holds them.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "cl_kernels/experts.h"
#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"
#include "memory/split_layout.h"
#include "runtime/device_read.h"

namespace tandem {
namespace {

constexpr std::size_t kPool = std::size_t{3} << 30;
constexpr std::size_t kScratchFloats = std::size_t{1} << 24;
constexpr DType kFormats[] = {DType::kBF16,  DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K,
                              DType::kMXFP4, DType::kQ6_K,   DType::kQ5_K, DType::kQ4_0,
                              DType::kQ5_0,  DType::kF16,    DType::kF32};

std::uint64_t SideBytes(DType type, std::int64_t rows, std::int64_t cols) {
  if (type != DType::kF8E4M3) return SplitSideBytes(type, rows, cols);
  return static_cast<std::uint64_t>((rows + 127) / 128 * ((cols + 127) / 128)) * 4;
}

class Bench {
 public:
  explicit Bench(const ClDevice& device)
      : device_(device),
        kernels_(device, "", cl::TraitsOf(device)),
        batch_(device, "", WithBatch(device, 64)),
        plain_(device, "", WithBatch(device, 0)),
        pool_(device.Allocate(std::min<std::size_t>(kPool, device.info().max_alloc_bytes / 2))),
        scratch_(device.Allocate(kScratchFloats * 4)) {
    const cl_uint pattern = 0x33333333;  // small normal numbers in every format
    ClCheck(clEnqueueFillBuffer(device.queue(), pool_.get(), &pattern, 4, 0, pool_.bytes(), 0,
                                nullptr, nullptr),
            "clEnqueueFillBuffer");
    device.Zero(scratch_.get(), 0, scratch_.bytes());
    const DeviceRead read(device, pool_.get(), pool_.bytes());
    for (int i = 0; i < 5; ++i) stream_ = std::max(stream_, read.Measure());
    fmt::print("{}: streams {:.0f} GB/s\n", device.info().name, stream_ / 1e9);
  }

  void Linear(DType type, std::int64_t N, std::int64_t K, std::int64_t T, bool fused) {
    cl::LinearArgs a;
    a.x = {scratch_.get(), 0};
    a.x_stride = K;
    a.y = {scratch_.get(), 1 << 22};
    a.y_stride = N;
    a.T = T;
    if (fused) {
      a.norm = {{scratch_.get(), 1 << 21}, 1e-6F, {scratch_.get(), 3 << 20}, K};
      a.swiglu = true;
    }
    const double bytes = static_cast<double>(fused ? 2 : 1) *
                         static_cast<double>(SplitDataBytes(type, N, K) + SideBytes(type, N, K));
    const double us = Time([&] {
      a.w = Next(type, N, K);
      if (fused) a.w2 = Next(type, N, K);
      kernels_.Linear(a);
    });
    Print(fmt::format("{}{:>7} x {:<5} rows {:<2}", fused ? "norm+swiglu" : "linear     ", N, K, T),
          type, us, bytes);
  }

  // `chosen` experts of each of T rows, no two rows the same ones while there are enough.
  void Experts(DType type, std::int64_t D, std::int64_t F, std::int64_t chosen, std::int64_t T) {
    const std::int64_t E = 256;
    std::vector<cl::ExpertEntry> table;
    std::uint64_t bytes = 0;
    for (std::int64_t e = 0; e < E; ++e) {
      const cl::Weight gate = Next(type, F, D);
      const cl::Weight up = Next(type, F, D);
      const cl::Weight down = Next(type, D, F);
      table.push_back({gate.offset, gate.scale_offset, up.offset, up.scale_offset, down.offset,
                       down.scale_offset, 0, static_cast<cl_int>(F)});
      bytes = 2 * (SplitDataBytes(type, F, D) + SideBytes(type, F, D)) +
              SplitDataBytes(type, D, F) + SideBytes(type, D, F);
    }
    constexpr std::int64_t kSteps = 16;  // lists of ids, in turn
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < kSteps * T * chosen; ++i) {
      ids.push_back(static_cast<std::int32_t>(i * 37 % E));
    }
    const ClBuffer d_table = device_.Allocate(table.size() * sizeof(table[0]));
    const ClBuffer d_ids = device_.Allocate(ids.size() * 4);
    const ClBuffer lists = device_.Allocate(1 << 20);
    device_.BlockingWrite(d_table.get(), 0, table.data(), table.size() * sizeof(table[0]));
    device_.BlockingWrite(d_ids.get(), 0, ids.data(), ids.size() * 4);
    cl::GroupArgs g;
    g.weights = {scratch_.get(), 0};
    g.table = {d_table.get(), 0};
    g.T = T;
    g.K = chosen;
    g.E = E;
    g.tile_rows = 8;
    g.tiles = {lists.get(), 0};
    g.n_tiles = {lists.get(), 100'000};
    g.pair_row = {lists.get(), 110'000};
    g.pair_weight = {lists.get(), 120'000};
    g.token_pairs = {lists.get(), 130'000};
    const cl_mem slab = pool_.get();
    cl::ExpertsArgs a;
    a.slabs = {&slab, 1};
    a.gate_up = type;
    a.down = type;
    a.D = D;
    a.F = F;
    a.table = g.table;
    a.tiles = g.tiles;
    a.n_tiles = g.n_tiles;
    a.max_tiles = cl::MaxTiles(T, chosen, E, 8);
    a.pair_row = g.pair_row;
    a.pair_weight = g.pair_weight;
    a.token_pairs = g.token_pairs;
    a.T = T;
    a.C = chosen;
    a.x = {scratch_.get(), 0};
    a.x_stride = D;
    a.act = {scratch_.get(), 1 << 20};
    a.pair_out = {scratch_.get(), 1 << 22};
    a.y = {scratch_.get(), 1 << 23};
    a.y_stride = D;
    std::int64_t step = 0;
    const auto group = [&] {
      g.ids = {d_ids.get(), step++ % kSteps * T * chosen};
      kernels_.Group(g);
    };
    const double group_us = Time(group);
    const double us = Time([&] {
      group();
      kernels_.Experts(a);
    });
    Print(fmt::format("experts {:>4} of {} x {} rows {:<2} (group {:.1f} us)", chosen, D, F, T,
                      group_us),
          type, us - group_us,
          static_cast<double>(std::min(chosen * T, E)) * static_cast<double>(bytes));
  }

  // The same product by few_rows.cl or gemm.cl, and by linear_batch.cl.
  void Forms(DType type, std::int64_t N, std::int64_t K, std::int64_t T, bool swiglu) {
    cl::LinearArgs a;
    a.x = {scratch_.get(), 0};
    a.x_stride = K;
    a.y = {scratch_.get(), 1 << 22};
    a.y_stride = N;
    a.T = T;
    a.bf16 = true;
    a.swiglu = swiglu;
    a.work = {scratch_.get(), 1 << 23};
    const double bytes = static_cast<double>(swiglu ? 2 : 1) *
                         static_cast<double>(SplitDataBytes(type, N, K) + SideBytes(type, N, K));
    double us[2] = {};
    for (int form = 0; form < 2; ++form) {
      cl::Kernels& kernels = form == 0 ? plain_ : batch_;
      us[form] = Time([&] {
        a.w = Next(type, N, K);
        if (swiglu) a.w2 = Next(type, N, K);
        kernels.Linear(a);
      });
    }
    fmt::print("{:8} {}{:>7} x {:<5} rows {:<2} {:8.1f} us, batch {:8.1f} us {:4.0f} %\n",
               Name(type), swiglu ? "swiglu " : "linear ", N, K, T, us[0], us[1],
               100 * bytes / us[1] * 1e6 / stream_);
    std::fflush(stdout);
  }

 private:
  static cl::DeviceTraits WithBatch(const ClDevice& device, std::int64_t rows) {
    cl::DeviceTraits traits = cl::TraitsOf(device);
    traits.batch_rows_min = 1;
    traits.batch_rows_max = rows;
    return traits;
  }

  // The next matrix of the pool.
  cl::Weight Next(DType type, std::int64_t rows, std::int64_t cols) {
    const std::uint64_t data = (SplitDataBytes(type, rows, cols) + 255) / 256 * 256;
    const std::uint64_t side = (SideBytes(type, rows, cols) + 255) / 256 * 256;
    if (at_ + data + side > pool_.bytes()) at_ = 0;
    cl::Weight w{pool_.get(), at_, at_ + data, type, rows, cols};
    at_ += data + side;
    return w;
  }

  // Microseconds of one launch, back to back: the best of three rounds.
  template <class Launch>
  double Time(const Launch& launch) {
    using Clock = std::chrono::steady_clock;
    for (int i = 0; i < 3; ++i) launch();
    device_.Finish();
    double best = 1e30;
    int count = 8;
    for (int round = 0; round < 3; ++round) {
      const auto start = Clock::now();
      for (int i = 0; i < count; ++i) launch();
      const auto enqueued = Clock::now() - start;
      device_.Finish();
      const double us =
          std::chrono::duration<double, std::micro>(Clock::now() - start).count() / count;
      if (us < best) {
        enqueue_us_ = std::chrono::duration<double, std::micro>(enqueued).count() / count;
      }
      best = std::min(best, us);
      count = std::clamp(static_cast<int>(20'000 / us), 8, 400);
    }
    return best;
  }

  void Print(const std::string& what, DType type, double us, double bytes) const {
    const double rate = bytes / us * 1e6;
    fmt::print("{:8} {} {:8.1f} us {:6.0f} GB/s {:4.0f} %, enqueued in {:.1f} us\n", Name(type),
               what, us, rate / 1e9, 100 * rate / stream_, enqueue_us_);
    std::fflush(stdout);
  }

  const ClDevice& device_;
  cl::Kernels kernels_;
  cl::Kernels batch_;  // linear_batch.cl for any number of rows
  cl::Kernels plain_;  // and never
  ClBuffer pool_;
  ClBuffer scratch_;
  double stream_ = 0;
  double enqueue_us_ = 0;  // the host's part of what Time found last
  std::uint64_t at_ = 0;
};

void Run(Bench& bench, DType type) {
  struct Shape {
    std::int64_t N, K;
  };
  for (const Shape s : {Shape{18432, 7168}, {7168, 18432}, {7168, 16384}, {7168, 2048}}) {
    for (const std::int64_t T : {1, 2, 4, 8, 16}) {
      if (s.K == 16384 && T > 1) continue;
      bench.Linear(type, s.N, s.K, T, false);
    }
  }
  bench.Linear(type, 2048, 2048, 1, false);
  bench.Linear(type, 2048, 7168, 1, true);
  bench.Experts(type, 7168, 2048, 8, 1);
  bench.Experts(type, 2048, 1408 / BlockElements(type) * BlockElements(type), 6, 1);
  bench.Experts(type, 7168, 2048, 8, 4);
}

void RunOne(Bench& bench, DType type) {
  bench.Linear(type, 18432, 7168, 1, false);
  bench.Linear(type, 7168, 18432, 1, false);
  bench.Linear(type, 7168, 2048, 1, false);
  bench.Linear(type, 2048, 7168, 1, true);
  bench.Experts(type, 7168, 2048, 8, 1);
}

void RunSmall(Bench& bench, DType type) {
  struct Shape {
    std::int64_t N, K;
  };
  for (const Shape s : {Shape{3072, 2048}, {2048, 2048}, {576, 2048}, {3648, 2048}, {2048, 2816}}) {
    if (s.K % BlockElements(type) == 0) bench.Linear(type, s.N, s.K, 1, false);
  }
  bench.Linear(type, 2816, 2048, 1, true);
  bench.Experts(type, 2048, 1408 / BlockElements(type) * BlockElements(type), 6, 1);
}

void RunForms(Bench& bench, DType type) {
  struct Shape {
    std::int64_t N, K;
    bool swiglu;
  };
  for (const Shape s : {Shape{18432, 7168, false},
                        {7168, 18432, false},
                        {2048, 7168, false},
                        {7168, 2048, false},
                        {2048, 7168, true}}) {
    for (const std::int64_t T : {1, 2, 3, 4, 8, 16, 24, 32}) {
      bench.Forms(type, s.N, s.K, T, s.swiglu);
    }
  }
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  using namespace tandem;
  const ClProbe probe = ProbeClDevices();
  if (probe.devices.empty()) {
    fmt::print("no OpenCL device: {}\n", probe.problem);
    return EXIT_FAILURE;
  }
  const ClDevice device(probe.devices.front());
  Bench bench(device);
  const bool rows = argc > 1 && std::string_view(argv[1]) == "--rows";
  const bool one = argc > 1 && std::string_view(argv[1]) == "--one";
  const bool small = argc > 1 && std::string_view(argv[1]) == "--small";
  const auto run = rows ? RunForms : one ? RunOne : small ? RunSmall : Run;
  const int first = rows || one || small ? 2 : 1;
  for (int i = first; i < argc; ++i) {
    const std::optional<DType> type = ParseWeightFormat(argv[i]);
    if (!type || !IsDeviceFormat(*type)) {
      fmt::print("'{}' is no weight format of devices\n", argv[i]);
      return EXIT_FAILURE;
    }
    run(bench, *type);
  }
  if (argc == first) {
    for (const DType type : kFormats) run(bench, type);
  }
  return EXIT_SUCCESS;
}
