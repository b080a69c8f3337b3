// Bandwidth of the OpenCL matrix products where they are bound by it: few rows against weights that
// no cache holds. Each line gives GB/s of weights and the share of the streaming read that the same
// device reaches in the same run. Device: TANDEM_BENCH_DEVICE (index, default 0).
//
//   cl_linear_bench --benchmark_repetitions=5 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"
#include "memory/error.h"
#include "runtime/device_read.h"

namespace tandem {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

class Machine {
 public:
  Machine()
      : device_(Choose()),
        kernels_(device_, ""),
        bytes_(device_.info().is_cpu ? 512 * kMiB : 4096 * kMiB),
        weights_(device_.Allocate(bytes_)),
        vectors_(device_.Allocate(64 * kMiB)) {
    FillWeights();
    device_.Zero(vectors_.get(), 0, 64 * kMiB);
    read_gb_per_s_ = MeasureRead();
    fmt::print("device {}, driver {}\nstreaming read of {} MiB: {:.1f} GB/s\n", device_.info().name,
               device_.info().driver_version, bytes_ / kMiB, read_gb_per_s_);
  }

  const ClDevice& device() const { return device_; }
  cl::Kernels& kernels() { return kernels_; }
  cl_mem weights() const { return weights_.get(); }
  cl_mem vectors() const { return vectors_.get(); }
  std::size_t bytes() const { return bytes_; }
  double read_gb_per_s() const { return read_gb_per_s_; }

 private:
  static ClDeviceInfo Choose() {
    const ClProbe probe = ProbeClDevices();
    const char* wanted = std::getenv("TANDEM_BENCH_DEVICE");
    const std::size_t index = wanted == nullptr ? 0 : std::strtoul(wanted, nullptr, 10);
    if (index >= probe.devices.size()) {
      Throw<OpenClError>("TANDEM_BENCH_DEVICE={}: {} OpenCL devices found; {}", index,
                         probe.devices.size(), probe.problem);
    }
    return probe.devices[index];
  }

  // Bytes that are finite, ordinary numbers in every weight format.
  void FillWeights() {
    std::vector<unsigned char> bytes(16 * kMiB);
    unsigned state = 1;
    for (unsigned char& b : bytes) {
      state = state * 1664525 + 1013904223;
      b = static_cast<unsigned char>((state >> 24) & 0x3F);
    }
    for (std::size_t at = 0; at < bytes_; at += bytes.size()) {
      device_.BlockingWrite(weights_.get(), at, bytes.data(), bytes.size());
    }
  }

  double MeasureRead() {
    const DeviceRead read(device_, weights(), bytes_);
    double best = 0;
    for (int round = 0; round < 7; ++round) best = std::max(best, read.Measure() * 1e-9);
    return best;
  }

  ClDevice device_;
  cl::Kernels kernels_;
  std::size_t bytes_;
  ClBuffer weights_;
  ClBuffer vectors_;
  double read_gb_per_s_ = 0;
};

void Report(benchmark::State& state, const Machine& machine, double bytes, double flops) {
  using benchmark::Counter;
  const double passes = static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(bytes * passes * 1e-9, Counter::kIsRate);
  state.counters["of_peak"] =
      Counter(bytes * passes * 1e-9 / machine.read_gb_per_s(), Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(flops * passes * 1e-9, Counter::kIsRate);
}

// One pass: as many matrices, side by side, as the weights buffer holds (at most 64).
void BenchLinear(benchmark::State& state, Machine& machine, DType dtype, std::int64_t T,
                 std::int64_t N, std::int64_t K) {
  const std::size_t matrix = static_cast<std::size_t>(N * K) * BytesOf(dtype);
  const std::size_t step = (matrix + matrix / 1024 + 4096) / 256 * 256;  // room for FP8 scales
  const std::size_t count = std::min<std::size_t>(machine.bytes() / step, 64);
  const auto pass = [&] {
    for (std::size_t i = 0; i < count; ++i) {
      cl::LinearArgs a;
      a.x = {machine.vectors(), 0};
      a.x_stride = K;
      a.w = {machine.weights(), i * step, i * step + matrix / 256 * 256, dtype, N, K};
      a.y = {machine.vectors(), T * K};
      a.y_stride = N;
      a.T = T;
      machine.kernels().Linear(a);
    }
    machine.device().Finish();
  };
  pass();
  for (auto _ : state) pass();
  Report(state, machine, static_cast<double>(matrix * count),
         2.0 * static_cast<double>(T * N * K) * static_cast<double>(count));
}

// One launch of `experts` experts with `pairs` pairs each.
void BenchExperts(benchmark::State& state, Machine& machine, DType dtype, std::int64_t experts,
                  std::int64_t pairs, std::int64_t D, std::int64_t F) {
  const std::uint64_t matrix = static_cast<std::uint64_t>(D * F) * BytesOf(dtype);
  const std::uint64_t step = (matrix + matrix / 1024 + 4096) / 256 * 256;
  const std::int64_t held = static_cast<std::int64_t>(machine.bytes() / (3 * step));
  experts = std::min(experts, held);
  std::vector<cl::ExpertJob> jobs;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::uint64_t at = static_cast<std::uint64_t>(e) * 3 * step;
    const std::uint64_t scales = matrix / 256 * 256;
    jobs.push_back({at, at + scales, at + step, at + step + scales, at + 2 * step,
                    at + 2 * step + scales, static_cast<cl_int>(e * pairs),
                    static_cast<cl_int>(pairs)});
  }
  const std::int64_t P = experts * pairs;
  const ClBuffer job_buffer = machine.device().Allocate(jobs.size() * sizeof(cl::ExpertJob));
  const ClBuffer rows = machine.device().Allocate(static_cast<std::size_t>(P) * 4);
  machine.device().BlockingWrite(job_buffer.get(), 0, jobs.data(), job_buffer.bytes());
  machine.device().Zero(rows.get(), 0, rows.bytes());  // row 0 and weight 0: speed is the same
  cl::ExpertJobsArgs a;
  a.weights = machine.weights();
  a.dtype = dtype;
  a.D = D;
  a.F = F;
  a.jobs = {job_buffer.get(), 0};
  a.n_jobs = experts;
  a.max_pairs = pairs;
  a.pair_row = {rows.get(), 0};
  a.pair_weight = {rows.get(), 0};
  a.x = {machine.vectors(), 0};
  a.x_stride = D;
  a.act = {machine.vectors(), D};
  a.pair_out = {machine.vectors(), D + P * F};
  const auto pass = [&] {
    machine.kernels().ExpertJobs(a);
    machine.device().Finish();
  };
  pass();
  for (auto _ : state) pass();
  Report(state, machine, static_cast<double>(3 * matrix) * static_cast<double>(experts),
         6.0 * static_cast<double>(D * F) * static_cast<double>(P));
}

void Register(const std::string& name, const std::function<void(benchmark::State&)>& run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseRealTime()->Unit(benchmark::kMillisecond);
}

void RegisterAll(Machine& machine) {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kF16, DType::kF32}) {
    for (const std::int64_t T : {1, 4, 8, 64}) {
      Register(fmt::format("linear/{}/T{}/2048x2048", Name(dtype), T),
               [=, &machine](auto& state) { BenchLinear(state, machine, dtype, T, 2048, 2048); });
      Register(fmt::format("linear/{}/T{}/7168x7168", Name(dtype), T),
               [=, &machine](auto& state) { BenchLinear(state, machine, dtype, T, 7168, 7168); });
    }
    for (const std::int64_t pairs : {1, 4, 64}) {
      Register(fmt::format("experts/{}/8x{}_pairs/2048x1408", Name(dtype), pairs),
               [=, &machine](auto& state) {
                 BenchExperts(state, machine, dtype, 8, pairs, 2048, 1408);
               });
      Register(fmt::format("experts/{}/8x{}_pairs/7168x2048", Name(dtype), pairs),
               [=, &machine](auto& state) {
                 BenchExperts(state, machine, dtype, 8, pairs, 7168, 2048);
               });
    }
  }
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  try {
    tandem::Machine machine;
    tandem::RegisterAll(machine);
    benchmark::RunSpecifiedBenchmarks();
  } catch (const tandem::Error& e) {
    fmt::print(stderr, "cl_linear_bench: {}\n", e.what());
    return static_cast<int>(e.code());
  }
  benchmark::Shutdown();
  return 0;
}
