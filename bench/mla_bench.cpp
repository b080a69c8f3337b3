// MLA on the device: attention over split keys in its generic form and on matrix units, beside the
// streaming read and the bare rate of mma.sync of the same run; then the launches around it.
// Launches go back to back over memory that no cache holds. Device: TANDEM_BENCH_DEVICE (index,
// default 0). Arguments: the least and the most keys of the decode table (8192 131072).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench/bare_mma.h"
#include "bench/bench_device.h"
#include "cl_kernels/device_traits.h"
#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"
#include "memory/error.h"
#include "runtime/device_read.h"

namespace tandem {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kR = 512;
constexpr std::int64_t kD = 64;

// The device as one of no more than this compute capability: 89 has no wgmma, 0 no mma.sync.
cl::DeviceTraits Limited(const ClDevice& device, int nv_compute) {
  cl::DeviceTraits traits = cl::TraitsOf(device);
  traits.nv_compute = std::min(traits.nv_compute, nv_compute);
  return traits;
}

struct AttentionCase {
  DType type = DType::kF16;
  std::int64_t T = 1, H = 128, keys = 0;
  bool prefill = false;  // rows of one sequence, the last with `keys` keys
};

class Machine {
 public:
  Machine()
      : device_(ChooseBenchDevice()),
        native_(device_, ""),
        mma_sync_(device_, "", Limited(device_, 89)),
        generic_(device_, "", Limited(device_, 0)),
        traits_(cl::TraitsOf(device_)),
        cache_(device_.Allocate(device_.info().is_cpu ? 256 * kMiB : 3072 * kMiB)),
        values_(device_.Allocate(640 * kMiB)),
        tables_(device_.Allocate(kMiB)),
        rows_(device_.Allocate(kMiB)) {
    Fill();
    read_ = MeasureRead();
    mma_ = traits_.nv_compute >= 80 ? BareMmaRate(device_) : 0;
    fmt::print(
        "device {}, driver {}\nstreaming read {:.0f} GB/s, bare mma.sync bf16 {:.0f} TFLOP/s\n",
        device_.info().name, device_.info().driver_version, read_ * 1e-9, mma_ * 1e-12);
  }

  void Attention(const AttentionCase& c) {
    const std::int64_t held =
        static_cast<std::int64_t>(cache_.bytes()) / (kBlock * TokenBytes(c.type));
    const std::int64_t needed = Blocks(c);
    if (needed > held) return;
    double flops = 0;
    PrepareRows(c, flops);
    const double bytes = static_cast<double>((c.prefill ? 1 : c.T) * c.keys * TokenBytes(c.type));
    const std::string name =
        fmt::format("{} {:>4} rows x {:>3} heads, {:>6} keys, {:<7}",
                    c.prefill ? "prefill" : "decode ", c.T, c.H, c.keys, Name(c.type));
    for (cl::Kernels* kernels : {&native_, &mma_sync_, &generic_}) {
      if (kernels != &generic_ && mma_ == 0) continue;
      // Few slots have one form on matrix units.
      const bool wide = c.H % 64 == 0 || c.T * c.H >= 1024;
      if (kernels == &mma_sync_ && (!wide || traits_.nv_compute < 90)) continue;
      cl::MlaAttentionArgs a = Args(c);
      int launch = 0;
      const double s = Seconds([&] {
        // Another part of the cache each time.
        a.tables.offset = launch++ * needed % std::max<std::int64_t>(held - needed, 1);
        kernels->MlaAttention(a);
      });
      fmt::print("{} {:<7} splits {:>3} {:>10.1f} us {:>6.0f} GB/s {:>6.1f} TFLOP/s", name,
                 kernels == &generic_    ? "generic"
                 : kernels == &mma_sync_ ? "mma"
                                         : "native",
                 a.splits, s * 1e6, bytes / s * 1e-9, flops / s * 1e-12);
      if (mma_ > 0) {
        fmt::print("  {:.0f} % of the bound", 100 * std::max(bytes / read_, flops / mma_) / s);
      }
      fmt::print("\n");
    }
  }

  void Around(std::int64_t T, std::int64_t H) {
    const cl::Span x{values_.get(), 0};
    const cl::Span y{values_.get(), 32 << 20};
    const std::uint64_t matrix = static_cast<std::uint64_t>(H * 256 * kR) * 2;
    const std::uint64_t copies = cache_.bytes() / 2 / matrix;
    std::uint64_t launch = 0;
    const auto weights = [&] {
      cl::HeadWeights w;
      w.kv_b = {cache_.get(), launch++ % copies * matrix, 0, DType::kBF16, H * 256, kR};
      return w;
    };
    const std::int64_t splits = cl::MlaSplits(T, H, 8192, Units());
    Report(fmt::format("append T {:>3}", T), 0, [&] {
      native_.MlaAppend(
          {x, kR + kD, x, 1e-6F, kR, kD, x, cache_.get(), DType::kF16, {rows_.get(), kSlots}, T});
    });
    Report(fmt::format("query  T {:>3} H {:>3} BF16", T, H), static_cast<double>(matrix) / 2, [&] {
      native_.MlaQuery({x, H * (128 + kD), weights(), x, y, T, H, kR, kD, 128, 128});
    });
    Report(fmt::format("output T {:>3} H {:>3} BF16, {} splits", T, H, splits),
           static_cast<double>(matrix) / 2 + static_cast<double>(T * H * splits * kR) * 4, [&] {
             native_.MlaOutput(
                 {x, {values_.get(), 24 << 20}, splits, weights(), y, H * 128, T, H, kR, 128, 128});
           });
  }

 private:
  static constexpr std::int64_t kSlots = 32768;  // offsets in rows_
  static constexpr std::int64_t kKeys = 65536;
  static constexpr std::int64_t kZeros = 131072;

  static std::int64_t TokenBytes(DType type) { return type == DType::kF8E4M3 ? 656 : 1152; }
  static std::int64_t Blocks(const AttentionCase& c) {
    return (c.keys + kBlock - 1) / kBlock * (c.prefill ? 1 : c.T);
  }
  std::int64_t Units() const { return device_.info().compute_units; }

  // Bytes that are ordinary numbers in every type: codes and halves below 2, scales about 1.
  void Fill() {
    std::vector<std::uint32_t> words(16 * kMiB / 4);
    std::mt19937 random(1);
    for (std::uint32_t& w : words) w = (random() & 0x0f0f0f0fU) | 0x30303030U;
    for (std::size_t at = 0; at < cache_.bytes(); at += 16 * kMiB) {
      device_.BlockingWrite(cache_.get(), at, words.data(), 16 * kMiB);
    }
    std::vector<float> floats(4 * kMiB);
    for (float& f : floats) f = static_cast<float>(random() % 2048) / 1024 - 1;
    for (std::size_t at = 0; at < values_.bytes(); at += 16 * kMiB) {
      device_.BlockingWrite(values_.get(), at, floats.data(), 16 * kMiB);
    }
    std::vector<std::int32_t> zeros(kMiB / 4);
    device_.BlockingWrite(rows_.get(), 0, zeros.data(), kMiB);
  }

  void PrepareRows(const AttentionCase& c, double& flops) {
    const std::int64_t held =
        static_cast<std::int64_t>(cache_.bytes()) / (kBlock * TokenBytes(c.type));
    std::vector<std::int32_t> tables(static_cast<std::size_t>(held));
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), std::mt19937(2));
    device_.BlockingWrite(tables_.get(), 0, tables.data(), tables.size() * 4);
    std::vector<std::int32_t> starts;
    std::vector<std::int32_t> keys;
    flops = 0;
    for (std::int64_t t = 0; t < c.T; ++t) {
      starts.push_back(static_cast<std::int32_t>(c.prefill ? 0 : t * Blocks(c) / c.T));
      keys.push_back(static_cast<std::int32_t>(c.prefill ? c.keys - c.T + 1 + t : c.keys));
      flops += 2.0 * static_cast<double>(c.H * keys.back() * (2 * kR + kD));
    }
    device_.BlockingWrite(rows_.get(), 0, starts.data(), starts.size() * 4);
    device_.BlockingWrite(rows_.get(), kKeys * 4, keys.data(), keys.size() * 4);
  }

  cl::MlaAttentionArgs Args(const AttentionCase& c) const {
    cl::MlaAttentionArgs a;
    a.q = {values_.get(), 0};
    a.kv = cache_.get();
    a.kv_type = c.type;
    a.tables = {tables_.get(), 0};
    a.table_start = {rows_.get(), 0};
    a.n_keys = {rows_.get(), kKeys};
    a.max_keys = c.keys;
    a.T = c.T;
    a.H = c.H;
    a.R = kR;
    a.d = kD;
    a.scale = 0.07F;
    a.splits = cl::MlaSplits(c.T, c.H, c.keys, Units());
    a.parts = {values_.get(), 48 << 20};
    a.lse = {values_.get(), 40 << 20};
    a.bf16 = true;
    return a;
  }

  // Of one call, from enough of them between two waits to make 30 ms.
  double Seconds(const std::function<void()>& call) const {
    using Clock = std::chrono::steady_clock;
    const auto timed = [&](int calls) {
      const auto start = Clock::now();
      for (int i = 0; i < calls; ++i) call();
      device_.Finish();
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    timed(1);
    const double one = timed(1);
    const int calls = static_cast<int>(std::clamp(0.03 / one, 1.0, 200.0));
    return timed(calls) / calls;
  }

  void Report(const std::string& name, double bytes, const std::function<void()>& call) const {
    const double s = Seconds(call);
    fmt::print("{:<40} {:>8.1f} us", name, s * 1e6);
    if (bytes > 0) {
      fmt::print(" {:>6.0f} GB/s, {:.0f} % of the streaming read", bytes / s * 1e-9,
                 100 * bytes / s / read_);
    }
    fmt::print("\n");
  }

  double MeasureRead() const {
    const DeviceRead read(device_, cache_.get(), cache_.bytes());
    double best = 0;
    for (int round = 0; round < 5; ++round) best = std::max(best, read.Measure());
    return best;
  }

  ClDevice device_;
  cl::Kernels native_, mma_sync_, generic_;
  cl::DeviceTraits traits_;
  ClBuffer cache_, values_, tables_, rows_;
  double read_ = 0, mma_ = 0;
};

void Run(std::int64_t least, std::int64_t most) {
  Machine machine;
  for (const std::int64_t H : {128, 16}) {
    for (const std::int64_t T : {1, 16}) {
      for (const std::int64_t keys : {8192, 32768, 131072}) {
        for (const DType type : {DType::kF16, DType::kBF16, DType::kF8E4M3}) {
          if (keys >= least && keys <= most) machine.Attention({type, T, H, keys});
        }
      }
    }
  }
  for (const DType type : {DType::kF16, DType::kF8E4M3}) {
    machine.Attention({type, 512, 16, 512, true});
    machine.Attention({type, 512, 16, 4096, true});
    machine.Attention({type, 4096, 16, 4096, true});
    machine.Attention({type, 512, 128, 4096, true});
  }
  for (const std::int64_t H : {128, 16}) {
    for (const std::int64_t T : {1, 16}) machine.Around(T, H);
  }
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  try {
    tandem::Run(argc > 1 ? std::atoll(argv[1]) : 8192, argc > 2 ? std::atoll(argv[2]) : 131072);
  } catch (const tandem::Error& e) {
    fmt::print(stderr, "mla_bench: {}\n", e.what());
    return static_cast<int>(e.code());
  }
  return 0;
}
