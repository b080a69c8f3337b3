// What a MoE layer's hand-over between device and host costs. A step of 64 layers is timed with
// hand-overs whose host side does nothing, and with two tiny launches in their place; the
// difference per layer is printed, once with nothing else on the device (launches are the limit)
// and once with a kernel before and one beside each hand-over (latency is what counts). Before it,
// what the link does: pinned copies, kernels that read and write the shared memory, and the host's
// own reads of it. Device: TANDEM_BENCH_DEVICE (index, default 0).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "bench/bench_device.h"
#include "cl_kernels/device_traits.h"
#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"
#include "memory/cl_shared.h"
#include "memory/error.h"
#include "runtime/busy_kernel.h"
#include "runtime/device_read.h"
#include "runtime/hand_over.h"

namespace tandem {
namespace {

constexpr int kLayers = 64;
constexpr int kSteps = 31;
constexpr std::int64_t kChosen = 8;
constexpr std::size_t kMiB = std::size_t{1} << 20;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double TimeOf(const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < kSteps; ++i) {
    const double begin = Now();
    call();
    times.push_back(Now() - begin);
  }
  return Median(times);
}

void PrintLink(const ClDevice& device) {
  constexpr std::size_t kBytes = 256 * kMiB;
  const double gb = static_cast<double>(kBytes) / 1e9;
  const ClPinned pinned(device, kBytes);
  std::memset(pinned.host(), 1, kBytes);
  const ClBuffer buffer = device.Allocate(kBytes);
  const double write =
      TimeOf([&] { device.BlockingWrite(buffer.get(), 0, pinned.host(), kBytes); });
  const double read = TimeOf([&] { device.BlockingRead(buffer.get(), 0, pinned.host(), kBytes); });
  fmt::print("pinned copies of 256 MiB: to the device {:.1f} GB/s, back {:.1f} GB/s\n", gb / write,
             gb / read);
  const auto shared = ClSharedBuffer::Allocate(device, kBytes);
  if (!shared) return;
  std::vector<std::byte> copy(kBytes);
  const double host = TimeOf([&] { std::memcpy(copy.data(), shared->host(), kBytes); });
  const double own = TimeOf([&] { std::memcpy(copy.data(), pinned.host(), kBytes); });
  fmt::print(
      "shared memory ({}): kernels read it at {:.1f} GB/s; one host thread copies from it at "
      "{:.1f} "
      "GB/s, from pinned memory at {:.1f}\n\n",
      Name(shared->kind()), DeviceRead(device, shared->mem(), kBytes).Measure() / 1e9, gb / host,
      gb / own);
}

struct Work {
  double before_us = 0;  // a kernel that the hand-over waits for
  double beside_us = 0;  // one that runs while the host computes
};

class Bench {
 public:
  Bench(const ClDevice& device, BusyKernel& busy, const cl::DeviceTraits& traits)
      : device_(device),
        kernels_(device, cl::DefaultCacheDir(), traits),
        busy_(busy),
        x_(device.Allocate(kMiB)),
        ids_(device.Allocate(kMiB)) {
    device_.Zero(x_.get(), 0, kMiB);
    device_.Zero(ids_.get(), 0, kMiB);
  }

  double TinyStep(const Work& work) {
    return StepTime([&] {
      std::thread computing([] {});  // both forms of a step start one
      for (int l = 0; l < kLayers; ++l) {
        if (work.before_us > 0) busy_.Run(work.before_us);
        kernels_.Add({{x_.get(), 0}, {x_.get(), 64}, 64});
        if (work.beside_us > 0) busy_.Run(work.beside_us);
        kernels_.Add({{x_.get(), 0}, {x_.get(), 64}, 64});
      }
      computing.join();
      device_.Finish();
    });
  }

  void Print(HandOverKind kind, std::int64_t T, std::int64_t D, const Work& work) {
    const auto hand_over = MakeHandOver(device_, kernels_, {D, kChosen, T}, kind);
    const double step = StepTime([&] { Step(*hand_over, T, D, work); });
    const double tiny = TinyStep(work);
    fmt::print(
        "{:6}  T {}  D {}  {:3.0f} us before, {:3.0f} beside: {:7.2f} us a layer, {:7.2f} "
        "with two tiny launches, {:6.2f} more\n",
        Name(kind), T, D, work.before_us, work.beside_us, step / kLayers * 1e6,
        tiny / kLayers * 1e6, (step - tiny) / kLayers * 1e6);
    std::fflush(stdout);
  }

 private:
  static double StepTime(const std::function<void()>& step) {
    step();
    return TimeOf(step);
  }

  void Step(HandOver& hand_over, std::int64_t T, std::int64_t D, const Work& work) {
    hand_over.BeginStep(T);
    std::thread computing([&] {
      for (int l = 0; l < kLayers; ++l) {
        hand_over.Await();
        hand_over.Deliver();
      }
    });
    for (int l = 0; l < kLayers; ++l) {
      if (work.before_us > 0) busy_.Run(work.before_us);
      hand_over.Publish({x_.get(), 0}, {ids_.get(), 0}, {ids_.get(), 0});
      if (work.beside_us > 0) busy_.Run(work.beside_us);
      hand_over.Take({x_.get(), 0}, D);
    }
    computing.join();
    device_.Finish();
    hand_over.EndStep();
  }

  const ClDevice& device_;
  cl::Kernels kernels_;
  BusyKernel& busy_;
  ClBuffer x_, ids_;
};

void Main() {
  const ClDevice device(ChooseBenchDevice());
  fmt::print("device {}, driver {}\n", device.info().name, device.info().driver_version);
  PrintLink(device);
  BusyKernel busy(device);
  Bench bench(device, busy, cl::TraitsOf(device));
  for (const HandOverKind kind : {HandOverKind::kPolled, HandOverKind::kEvents}) {
    for (const std::int64_t D : {7168, 2048}) {
      for (const std::int64_t T : {1, 8}) {
        bench.Print(kind, T, D, {});
        bench.Print(kind, T, D, {20, 20});
      }
    }
  }
}

}  // namespace
}  // namespace tandem

int main() {
  try {
    tandem::Main();
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
