// MLA in prefill of one sequence on the device: the expanded form in the forms that the device has,
// beside the absorbed form of the same rows, and the bare rate of mma.sync of the same run. Device:
// TANDEM_BENCH_DEVICE (index, default 0). Arguments: rows, and keys before them (4096 0).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
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

namespace tandem {
namespace {

constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kR = 512;
constexpr std::int64_t kD = 64;
constexpr std::int64_t kHead = 128;  // nope and v
constexpr std::int64_t kMiB = 1 << 20;

struct Prefill {
  std::int64_t T = 0, prior = 0, H = 0;
  DType kv = DType::kF16;

  std::int64_t keys() const { return prior + T; }
  // Multiply-adds twice: products of a key and a query of one head take `width`.
  double Attention(std::int64_t width) const {
    return static_cast<double>(H * width) * static_cast<double>(T) *
           static_cast<double>(2 * prior + T + 1);
  }
  double Maps(std::int64_t rows) const {
    return 2.0 * static_cast<double>(rows * H) * 2 * kHead * kR;
  }
};

// Buffers of one case, and the calls.
class Rows {
 public:
  Rows(const ClDevice& device, const Prefill& c) : c_(c) {
    const std::int64_t block = std::clamp<std::int64_t>(40 * kMiB / (c.H * (kR + kD)), 16, c.T);
    block_ = block;
    const auto floats = [&](std::int64_t n) { return Floats(device, n); };
    q_ = floats(c.T * c.H * (kHead + kD));
    out_ = floats(c.T * c.H * kHead);
    lse_ = floats((cl::kMlaParts + c.T) * c.H);
    turns_ = floats(c.T * kD);
    kv_ = floats((c.keys() + kBlock) * (kR + kD) / 2);
    weights_ = floats(c.H * 2 * kHead * kR / 2);
    absorbed_ = floats(block * c.H * (kR + kD));
    parts_ = floats((cl::kMlaParts + block * c.H) * kR);
    std::vector<std::int32_t> words(static_cast<std::size_t>(c.keys() / kBlock + 1));
    std::iota(words.begin(), words.end(), 0);
    std::shuffle(words.begin(), words.end(), std::mt19937(2));
    tables_ = Words(device, words);
    starts_ = Words(device, std::vector<std::int32_t>(static_cast<std::size_t>(c.T)));
    ones_ = Words(device, std::vector<std::int32_t>(static_cast<std::size_t>(c.T), 1));
    words.resize(static_cast<std::size_t>(c.T));
    std::iota(words.begin(), words.end(), static_cast<std::int32_t>(c.prior + 1));
    n_keys_ = Words(device, words);
    w_.kv_b = {weights_.get(), 0, 0, DType::kBF16, c.H * 2 * kHead, kR};
  }

  // `alone`: every row sees one key, so that little but the keys and values is made.
  void Expanded(cl::Kernels& kernels, bool alone) const {
    cl::MlaExpandedArgs a;
    a.q = {q_.get(), 0};
    a.q_stride = c_.H * (kHead + kD);
    a.cos_sin = {turns_.get(), 0};
    a.kv = kv_.get();
    a.kv_type = c_.kv;
    a.tables = {tables_.get(), 0};
    a.n_keys = {alone ? ones_.get() : n_keys_.get(), 0};
    a.max_keys = c_.keys();
    a.w = w_;
    a.T = c_.T;
    a.H = c_.H;
    a.R = kR;
    a.d = kD;
    a.nope = a.dv = kHead;
    a.scale = 0.07F;
    a.latents = {absorbed_.get(), 0};
    a.latents_floats = block_ * c_.H * (kR + kD);
    a.expanded = {parts_.get(), 0};
    a.expanded_floats = (cl::kMlaParts + block_ * c_.H) * kR;
    a.lse = {lse_.get(), 0};
    a.out = {out_.get(), 0};
    a.out_stride = c_.H * kHead;
    a.bf16 = true;
    kernels.MlaExpanded(a);
  }

  void Absorbed(cl::Kernels& kernels, std::int64_t units) const {
    const std::int64_t q = c_.H * (kHead + kD);
    for (std::int64_t t = 0; t < c_.T; t += block_) {
      const std::int64_t T = std::min(block_, c_.T - t);
      const std::int64_t keys = c_.prior + t + T;
      const std::int64_t splits = cl::MlaSplits(T, c_.H, keys, units);
      kernels.MlaQuery({{q_.get(), t * q},
                        q,
                        w_,
                        {turns_.get(), t * kD},
                        {absorbed_.get(), 0},
                        T,
                        c_.H,
                        kR,
                        kD,
                        kHead,
                        kHead,
                        true});
      kernels.MlaAttention({{absorbed_.get(), 0},
                            kv_.get(),
                            c_.kv,
                            {tables_.get(), 0},
                            {starts_.get(), 0},
                            {n_keys_.get(), t},
                            keys,
                            T,
                            c_.H,
                            kR,
                            kD,
                            0.07F,
                            splits,
                            0,
                            {parts_.get(), 0},
                            {lse_.get(), 0},
                            true});
      kernels.MlaOutput({{parts_.get(), 0},
                         {lse_.get(), 0},
                         splits,
                         w_,
                         {out_.get(), t * c_.H * kHead},
                         c_.H * kHead,
                         T,
                         c_.H,
                         kR,
                         kHead,
                         kHead,
                         true});
    }
  }

 private:
  // Halves that are ordinary numbers in f16 and bf16, and as f32.
  static ClBuffer Floats(const ClDevice& device, std::int64_t n) {
    ClBuffer buffer = device.Allocate(static_cast<std::size_t>(n) * 4);
    std::vector<std::uint32_t> words(static_cast<std::size_t>(std::min<std::int64_t>(n, kMiB)));
    std::mt19937 random(1);
    for (std::uint32_t& w : words) w = (random() & 0x8fff8fffU) | 0x30003000U;
    for (std::size_t at = 0; at < buffer.bytes(); at += words.size() * 4) {
      device.BlockingWrite(buffer.get(), at, words.data(),
                           std::min(words.size() * 4, buffer.bytes() - at));
    }
    return buffer;
  }
  static ClBuffer Words(const ClDevice& device, const std::vector<std::int32_t>& words) {
    ClBuffer buffer = device.Allocate(words.size() * 4);
    device.BlockingWrite(buffer.get(), 0, words.data(), words.size() * 4);
    return buffer;
  }

  Prefill c_;
  std::int64_t block_ = 0;
  ClBuffer q_, out_, lse_, turns_, kv_, weights_, absorbed_, parts_, tables_, starts_, ones_,
      n_keys_;
  cl::HeadWeights w_;
};

struct Form {
  std::string name;
  std::unique_ptr<cl::Kernels> kernels;
};

class Bench {
 public:
  Bench() : device_(ChooseBenchDevice()) {
    const cl::DeviceTraits traits = cl::TraitsOf(device_);
    for (const int most : {89, 90}) {
      if (traits.nv_compute < (most == 90 ? 90 : 80)) continue;
      cl::DeviceTraits t = traits;
      t.nv_compute = std::min(traits.nv_compute, most);
      forms_.push_back({most == 90 ? "wgmma" : "mma.sync",
                        std::make_unique<cl::Kernels>(device_, cl::DefaultCacheDir(), t)});
    }
    cl::DeviceTraits t = traits;
    t.nv_compute = 0;
    if (forms_.empty()) {
      forms_.push_back(
          {"generic", std::make_unique<cl::Kernels>(device_, cl::DefaultCacheDir(), t)});
    }
    mma_ = traits.nv_compute >= 80 ? BareMmaRate(device_) : 0;
    fmt::print("device {}, driver {}, bare mma.sync bf16 {:.0f} TFLOP/s\n", device_.info().name,
               device_.info().driver_version, mma_ * 1e-12);
  }

  void Run(const Prefill& c) const {
    const Rows rows(device_, c);
    const std::string name = fmt::format("{} rows after {} keys x {} heads", c.T, c.prior, c.H);
    Report(name, "absorbed", c.Attention(2 * kR + kD) + c.Maps(c.T),
           [&] { rows.Absorbed(*forms_.back().kernels, device_.info().compute_units); });
    Report(name, "keys and values alone", c.Maps(c.keys()),
           [&] { rows.Expanded(*forms_.back().kernels, true); });
    for (const Form& form : forms_) {
      Report(name, "expanded " + form.name, c.Attention(2 * kHead + kD) + c.Maps(c.keys()),
             [&] { rows.Expanded(*form.kernels, false); });
      for (const std::string& line : form.kernels->refusals()) fmt::print("{}\n", line);
    }
  }

 private:
  // Of one call, from enough of them between two waits to make 50 ms.
  void Report(const std::string& name, const std::string& form, double flops,
              const std::function<void()>& call) const {
    using Clock = std::chrono::steady_clock;
    const auto timed = [&](int calls) {
      const auto start = Clock::now();
      for (int i = 0; i < calls; ++i) call();
      device_.Finish();
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    timed(1);
    const int calls = static_cast<int>(std::clamp(0.05 / timed(1), 1.0, 100.0));
    const double s = timed(calls) / calls;
    fmt::print("{:<36} {:<24} {:>9.1f} us {:>6.1f} TFLOP/s", name, form, s * 1e6,
               flops / s * 1e-12);
    if (mma_ > 0) fmt::print("  {:.0f} % of bare mma.sync", 100 * flops / s / mma_);
    fmt::print("\n");
  }

  ClDevice device_;
  std::vector<Form> forms_;
  double mma_ = 0;
};

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  try {
    const std::int64_t T = argc > 1 ? std::atoll(argv[1]) : 4096;
    const std::int64_t prior = argc > 2 ? std::atoll(argv[2]) : 0;
    const tandem::Bench bench;
    for (const std::int64_t H : {16, 128}) bench.Run({T, prior, H});
  } catch (const tandem::Error& e) {
    fmt::print(stderr, "mla_expanded_bench: {}\n", e.what());
    return static_cast<int>(e.code());
  }
  return 0;
}
