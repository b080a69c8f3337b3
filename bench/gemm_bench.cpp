// Products of many rows on matrix units: TFLOP/s beside the bare rate of mma.sync, measured in the
// same run with registers alone, and for the experts GB/s of weights beside the streaming read.
// Linear products with the rounding of x to bf16 or e4m3 before them, and without it.
//
//   gemm_bench [word [mma]]    only the lines that contain the word, and without wgmma; device:
//                              TANDEM_BENCH_DEVICE
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "bench/bare_f8.h"
#include "bench/bare_mma.h"
#include "bench/bench_device.h"
#include "cl_kernels/device_traits.h"
#include "cl_kernels/gemm.h"
#include "cl_kernels/programs.h"
#include "memory/cl_device.h"
#include "memory/error.h"
#include "memory/split_layout.h"
#include "runtime/device_read.h"

namespace tandem {
namespace {

constexpr std::size_t kPattern = std::size_t{16} << 20;

double Seconds(const ClDevice& device, const std::function<void()>& work) {
  device.Finish();
  const auto start = std::chrono::steady_clock::now();
  work();
  device.Finish();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Bench {
 public:
  Bench(const ClDeviceInfo& info, std::string word, bool wgmma)
      : device_(info), programs_(device_, Traits(device_, wgmma), ""), word_(std::move(word)) {
    pattern_ = device_.Allocate(kPattern);
    std::vector<std::uint16_t> values(kPattern / 2);
    std::uint32_t state = 1;
    for (std::uint16_t& v : values) {  // of either sign, finite in every format
      state = state * 1664525 + 1013904223;
      v = static_cast<std::uint16_t>((state >> 16 & 0x807f) | 0x3c00 | (state >> 8 & 0x0300));
    }
    device_.BlockingWrite(pattern_.get(), 0, values.data(), kPattern);
    Limits();
  }

  void Linear(DType type, std::int64_t T, std::int64_t N, std::int64_t K, bool swiglu = false,
              bool fp8 = false) {
    const std::string name = fmt::format("linear {}{}{} {} x {} x {}", fp8 ? "FP8 x " : "",
                                         Name(type), swiglu ? " swiglu" : "", T, N, K);
    if (name.find(word_) == std::string::npos) return;
    const ClBuffer weights = Weights(2 * MatrixBytes(type, N, K));
    const ClBuffer x = Weights(static_cast<std::size_t>(T * K) * 4);
    const ClBuffer y = device_.Allocate(static_cast<std::size_t>(T * N) * 4);
    const ClBuffer work = device_.Allocate(static_cast<std::size_t>(cl::GemmWorkFloats(T, K)) * 4);
    cl::LinearArgs a;
    a.x = {x.get(), 0};
    a.x_stride = K;
    a.w = Matrix(weights, 0, type, N, K);
    if (swiglu) a.w2 = Matrix(weights, MatrixBytes(type, N, K), type, N, K);
    a.y = {y.get(), 0};
    a.y_stride = N;
    a.T = T;
    a.swiglu = swiglu;
    a.bf16 = true;
    a.fp8 = fp8;
    a.work = {work.get(), 0};
    if (!cl::GemmTakes(programs_, a)) return;
    const double matrices = swiglu ? 2 : 1;
    const double flops = matrices * 2.0 * static_cast<double>(T) * static_cast<double>(N * K);
    const double rate = fp8 ? f8_flops_ : flops_;
    const double bytes = matrices * static_cast<double>(MatrixBytes(type, N, K));
    Report(name, flops, rate, bytes, [&] { cl::LaunchGemm(programs_, a); });
    Report("  x rounded before", flops, rate, bytes, [&] { cl::LaunchRoundedGemm(programs_, a); });
  }

  void Experts(DType type, std::int64_t E, std::int64_t rows, std::int64_t D, std::int64_t F,
               bool fp8 = false) {
    const std::string name = fmt::format("experts {}{} {} of {} rows, {} x {}", fp8 ? "FP8 x " : "",
                                         Name(type), E, rows, D, F);
    if (name.find(word_) == std::string::npos || F % BlockElements(type) != 0) return;
    const std::size_t gate = MatrixBytes(type, F, D);
    const std::size_t down = MatrixBytes(type, D, F);
    constexpr std::int64_t kSlabs = 2;
    const std::int64_t per_slab = (E + kSlabs - 1) / kSlabs;
    std::vector<ClBuffer> slabs;
    std::vector<cl_mem> memory;
    for (std::int64_t s = 0; s < kSlabs; ++s) {
      slabs.push_back(Weights(static_cast<std::size_t>(per_slab) * (2 * gate + down)));
      memory.push_back(slabs.back().get());
    }
    std::vector<cl::ExpertEntry> table;
    std::vector<cl::ExpertTile> tiles;
    std::vector<cl_int> pair_row, token_pairs;
    const std::int64_t T = std::max<std::int64_t>(rows, 512);
    for (std::int64_t e = 0; e < E; ++e) {
      const std::size_t at = static_cast<std::size_t>(e % per_slab) * (2 * gate + down);
      const auto matrix = [&](std::size_t from, std::int64_t n, std::int64_t k) {
        return Matrix(slabs[static_cast<std::size_t>(e / per_slab)], from, type, n, k);
      };
      const cl::Weight g = matrix(at, F, D);
      const cl::Weight u = matrix(at + gate, F, D);
      const cl::Weight d = matrix(at + 2 * gate, D, F);
      table.push_back({g.offset, g.scale_offset, u.offset, u.scale_offset, d.offset, d.scale_offset,
                       static_cast<cl_int>(e / per_slab), static_cast<cl_int>(F)});
      for (std::int64_t p = 0; p < rows; p += cl::kGemmTileRows) {
        tiles.push_back({static_cast<cl_int>(e), static_cast<cl_int>(e * rows + p),
                         static_cast<cl_int>(std::min(rows - p, cl::kGemmTileRows)), 0});
      }
      for (std::int64_t p = 0; p < rows; ++p) {
        pair_row.push_back(static_cast<cl_int>((p * 7 + e) % T));
      }
    }
    const std::int64_t P = E * rows;
    const std::int64_t C = P / T;
    for (std::int64_t i = 0; i < T * C; ++i) token_pairs.push_back(static_cast<cl_int>(i));
    const ClBuffer tables = Upload(table);
    const ClBuffer tile_list = Upload(tiles);
    const ClBuffer n_tiles = Upload(std::vector<cl_int>{static_cast<cl_int>(tiles.size())});
    const ClBuffer rows_at = Upload(pair_row);
    const ClBuffer pairs_of = Upload(token_pairs);
    const ClBuffer x = Weights(static_cast<std::size_t>(std::max(T * D, P)) * 4);
    const ClBuffer act = device_.Allocate(static_cast<std::size_t>(P * F) * 4);
    const ClBuffer out = device_.Allocate(static_cast<std::size_t>(P * D) * 4);
    const ClBuffer y = Weights(static_cast<std::size_t>(T * D) * 4);
    const ClBuffer work = device_.Allocate(static_cast<std::size_t>(cl::GemmWorkFloats(T, D)) * 4);
    cl::ExpertsArgs a;
    a.slabs = memory;
    a.gate_up = type;
    a.down = type;
    a.D = D;
    a.F = F;
    a.table = {tables.get(), 0};
    a.tiles = {tile_list.get(), 0};
    a.n_tiles = {n_tiles.get(), 0};
    a.max_tiles = cl::MaxTiles(T, C, E, cl::kGemmTileRows);
    a.tile_rows = cl::kGemmTileRows;
    a.pair_row = {rows_at.get(), 0};
    a.pair_weight = {x.get(), 0};
    a.token_pairs = {pairs_of.get(), 0};
    a.T = T;
    a.C = C;
    a.x = {x.get(), 0};
    a.x_stride = D;
    a.act = {act.get(), 0};
    a.pair_out = {out.get(), 0};
    a.y = {y.get(), 0};
    a.y_stride = D;
    a.bf16 = true;
    a.fp8 = fp8;
    a.work = {work.get(), 0};
    if (!cl::GemmTakes(programs_, a)) return;
    Report(name, 6.0 * static_cast<double>(P) * static_cast<double>(D * F),
           fp8 ? f8_flops_ : flops_, static_cast<double>(E) * static_cast<double>(2 * gate + down),
           [&] { cl::LaunchExpertsGemm(programs_, a); });
  }

 private:
  // Without wgmma the programs take the device for one of compute capability 8.0.
  static cl::DeviceTraits Traits(const ClDevice& device, bool wgmma) {
    cl::DeviceTraits traits = cl::TraitsOf(device);
    if (!wgmma) traits.nv_compute = std::min(traits.nv_compute, 80);
    return traits;
  }
  static std::size_t Round(std::uint64_t bytes) { return (bytes + 255) / 256 * 256; }
  static std::size_t CodeBytes(DType type, std::int64_t N, std::int64_t K) {
    return Round(IsBlockFormat(type) ? SplitDataBytes(type, N, K) : DataBytes(type, N * K));
  }
  static std::size_t MatrixBytes(DType type, std::int64_t N, std::int64_t K) {
    const std::uint64_t side =
        IsBlockFormat(type) ? SplitSideBytes(type, N, K)
        : type == DType::kF8E4M3
            ? static_cast<std::uint64_t>((N + 127) / 128 * ((K + 127) / 128) * 4)
            : 0;
    return CodeBytes(type, N, K) + Round(side);
  }
  static cl::Weight Matrix(const ClBuffer& buffer, std::size_t at, DType type, std::int64_t N,
                           std::int64_t K) {
    return {buffer.get(), at, at + CodeBytes(type, N, K), type, N, K};
  }

  template <class T>
  ClBuffer Upload(const std::vector<T>& values) {
    ClBuffer buffer = device_.Allocate(values.size() * sizeof(T));
    device_.BlockingWrite(buffer.get(), 0, values.data(), values.size() * sizeof(T));
    return buffer;
  }
  ClBuffer Weights(std::size_t bytes) {
    ClBuffer buffer = device_.Allocate(bytes);
    for (std::size_t at = 0; at < bytes; at += kPattern) {
      device_.Copy(pattern_.get(), 0, buffer.get(), at, std::min(kPattern, bytes - at));
    }
    return buffer;
  }

  void Limits() {
    const ClBuffer memory = Weights(std::size_t{2} << 30);
    const DeviceRead read(device_, memory.get(), memory.bytes());
    for (int i = 0; i < 5; ++i) bytes_per_s_ = std::max(bytes_per_s_, read.Measure());
    const int nv = programs_.traits().nv_compute;
    if (nv >= 80) flops_ = BareMmaRate(device_);
    if (nv >= 89) f8_flops_ = BareMmaF8Rate(device_);
    if (!programs_.HasWgmma()) {
      fmt::print("no wgmma: {}\n", fmt::join(programs_.refusals(), "; "));
    }
    fmt::print("{}, driver {}: streaming read {:.0f} GB/s, mma.sync bf16 {:.0f} TFLOP/s\n",
               device_.info().name, device_.info().driver_version, bytes_per_s_ * 1e-9,
               flops_ * 1e-12);
    if (f8_flops_ > 0) fmt::print("mma.sync e4m3 {:.0f} TFLOP/s\n", f8_flops_ * 1e-12);
    if (nv == 90 && programs_.traits().wgmma_products &&
        programs_.NvCompute(cl::Program::kGemmF8Wgmma, DType::kF8E4M3) == 90) {
      f8_flops_ = BareWgmmaF8Rate(device_);
      fmt::print("wgmma e4m3 {:.0f} TFLOP/s\n", f8_flops_ * 1e-12);
    }
  }

  // `rate`: FLOP/s of the bare instruction.
  void Report(const std::string& name, double flops, double rate, double bytes,
              const std::function<void()>& launch) {
    launch();
    const double once = Seconds(device_, launch);
    const int times = static_cast<int>(std::clamp(0.1 / once, 2.0, 50.0));
    double seconds = 1e9;
    for (int round = 0; round < 3; ++round) {
      seconds = std::min(seconds, Seconds(device_, [&] {
                                    for (int i = 0; i < times; ++i) launch();
                                  }) / times);
    }
    const double bound = std::max(rate > 0 ? flops / rate : 0, bytes / bytes_per_s_);
    fmt::print("{:<48} {:8.3f} ms {:6.1f} TFLOP/s {:6.0f} GB/s  {:3.0f} % of the bound\n", name,
               seconds * 1e3, flops / seconds * 1e-12, bytes / seconds * 1e-9,
               100 * bound / seconds);
    std::fflush(stdout);
  }

  ClDevice device_;
  cl::Programs programs_;
  std::string word_;
  ClBuffer pattern_;
  double bytes_per_s_ = 0;
  double flops_ = 0;
  double f8_flops_ = 0;
};

void RunAll(Bench& bench) {
  bench.Linear(DType::kBF16, 8192, 8192, 8192);
  bench.Linear(DType::kBF16, 4096, 4096, 7168);
  bench.Linear(DType::kBF16, 4096, 2048, 2048);
  bench.Linear(DType::kBF16, 256, 7168, 7168);
  bench.Linear(DType::kBF16, 64, 7168, 7168);
  bench.Linear(DType::kBF16, 4096, 2048, 7168, true);
  for (const DType type : {DType::kF8E4M3, DType::kF16, DType::kF32, DType::kQ8_0, DType::kQ4_0,
                           DType::kQ5_0, DType::kMXFP4, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    bench.Linear(type, 4096, 7168, 7168);
  }
  bench.Linear(DType::kF8E4M3, 64, 7168, 7168);
  bench.Linear(DType::kF8E4M3, 256, 7168, 7168);
  bench.Linear(DType::kF8E4M3, 8192, 8192, 8192, false, true);
  bench.Linear(DType::kF8E4M3, 4096, 7168, 7168, false, true);
  bench.Linear(DType::kF8E4M3, 4096, 2048, 7168, true, true);
  bench.Linear(DType::kF8E4M3, 256, 7168, 7168, false, true);
  for (const DType type : {DType::kF8E4M3, DType::kQ4_K, DType::kBF16}) {
    bench.Experts(type, 64, 384, 2048, 1408);
    bench.Experts(type, 256, 64, 7168, 2048);
  }
  bench.Experts(DType::kF8E4M3, 64, 384, 2048, 1408, true);
  bench.Experts(DType::kF8E4M3, 64, 128, 7168, 2048, true);
  bench.Experts(DType::kF8E4M3, 64, 128, 7168, 2048);
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  try {
    tandem::Bench bench(tandem::ChooseBenchDevice(), argc > 1 ? argv[1] : "", argc <= 2);
    tandem::RunAll(bench);
  } catch (const tandem::Error& e) {
    fmt::print(stderr, "gemm_bench: {}\n", e.what());
    return static_cast<int>(e.code());
  }
  return 0;
}
