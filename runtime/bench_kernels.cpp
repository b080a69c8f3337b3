#include "runtime/bench_kernels.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/tunables.h"
#include "memory/error.h"
#include "runtime/bench_kernels_cases.h"
#include "runtime/bench_kernels_rate.h"
#include "runtime/bench_kernels_time.h"
#include "runtime/clock.h"
#include "runtime/device_read.h"

namespace tandem {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

KernelEffort EffortFor(const ClDeviceInfo& device, bool quick) {
  if (quick) return {1e-4, 3, 0.02, 0};
  if (device.is_cpu) return {2e-3, 5, 0.02, 20};
  return {};
}

// Weights that no cache holds, of a device that may have work for others.
std::size_t WeightBytesFor(const ClDeviceInfo& device, bool quick) {
  const std::uint64_t wanted = quick ? 16 * kMiB : device.is_cpu ? 256 * kMiB : 6144 * kMiB;
  const std::uint64_t most = std::min(device.max_alloc_bytes, device.global_mem_bytes / 4);
  return std::min(wanted, most / kMiB * kMiB);
}

std::string Line(const KernelCase& c) {
  return fmt::format("{} {} {}", c.kernel, c.shape, c.format);
}

std::string Lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Ends the timing of a case once the user wants to stop.
struct Stopped {};

class KernelBench {
 public:
  KernelBench(const ClDevice& device, const KernelBenchOptions& options, ProgressSink* progress)
      : device_(device),
        options_(options),
        progress_(progress),
        effort_(EffortFor(device.info(), options.quick)),
        timer_(device, effort_, [this] { Check(); }),
        native_(device, cl::DefaultCacheDir()),
        memory_(device, WeightBytesFor(device.info(), options.quick)) {
    cl::DeviceTraits traits = native_.traits();
    report_.shapes = native_.shapes();
    if (!options.with.empty()) {
      traits = cl::WithShapes(traits, options.with, device.info(), "--with");
      report_.second = fmt::format("{}", fmt::join(options.with, ","));
    } else if (traits.nv_compute > 0) {
      traits.nv_compute = 0;
      report_.second = "generic";
    }
    if (!report_.second.empty()) second_.emplace(device, cl::DefaultCacheDir(), traits);
  }

  KernelReport Run() {
    const std::vector<KernelCase> cases = Chosen();
    try {
      Stage("the device's limits");
      MeasureLimits();
      for (const KernelCase& c : cases) {
        Stage(c.kernel);
        One(c);
      }
      Stage("the device's limits");
      ReadAgain();
    } catch (const Stopped&) {
      report_.interrupted = true;
    }
    if (progress_ != nullptr && !stage_.empty()) progress_->End();
    for (KernelFinding& finding : report_.findings) Judge(finding);
    return std::move(report_);
  }

 private:
  std::vector<KernelCase> Chosen() {
    const KernelGrid grid = GridOf(device_.info(), options_.quick);
    std::vector<KernelCase> cases;
    const std::string word = Lower(options_.only);
    for (const auto list : {ProductCases, ExpertCases, RowCases, MlaCases, HandOverCases}) {
      for (KernelCase& c : list(grid, memory_)) {
        if (Lower(Line(c)).find(word) != std::string::npos) cases.push_back(std::move(c));
      }
    }
    if (!cases.empty()) return cases;
    Throw<UsageError>(
        "--only {}: expected a part of \"kernel shape format\" as the table has it; the kernels "
        "are linear, linear_f32, linear_f8, experts, group, rmsnorm, router, combine, argmax, "
        "mla_append, "
        "mla_query, mla_output, mla_attention, mla_expanded, hand_over",
        options_.only);
  }

  void Stage(const std::string& what) {
    Check();
    if (progress_ == nullptr || what == stage_) return;
    if (!stage_.empty()) progress_->End();
    stage_ = what;
    progress_->Begin("measuring kernels: " + what, 0);
  }

  void Check() const {
    if (progress_ == nullptr) return;
    if (!stage_.empty()) progress_->Update(0);
    if (progress_->Cancelled()) throw Stopped{};
  }

  double Read() {
    const DeviceRead read(device_, memory_.weights(), memory_.weight_bytes());
    const int rounds = options_.quick ? 2 : 7;
    double best = 0;
    for (int i = 0; i < rounds; ++i) {
      Check();
      best = std::max(best, read.Measure());
    }
    return best;
  }

  // A device that a kernel has taken down cannot say any more; what came before is still true.
  void ReadAgain() {
    try {
      report_.limits.read_bytes_per_s_after = Read();
    } catch (const OpenClError& e) {
      report_.failed.push_back({"streaming read after the kernels", e.what()});
    }
  }

  void MeasureLimits() {
    memory_.Fill(DType::kBF16);
    KernelLimits& limits = report_.limits;
    limits.read_bytes_per_s_before = Read();
    const MatrixRate rate(device_, native_.traits().nv_compute);
    limits.matrix_unit = rate.unit();
    limits.matrix_flops_per_s = rate.Measure();
    const ClBuffer values = memory_.Values(128);
    const cl::AddArgs add{All(values), {values.get(), 64}, 64};
    limits.launch_s = timer_.Time({InTurn([&](std::size_t) { native_.Add(add); })}).front().seconds;
  }

  void One(const KernelCase& c) {
    std::string why = c.left_out;
    if (why.empty() && effort_.budget_s > 0 && Now() - start_ > effort_.budget_s) {
      why = fmt::format("the {:.0f} s for a CPU are over; see --only", effort_.budget_s);
    }
    if (!why.empty()) return report_.left_out.push_back({Line(c), why});
    try {
      KernelFinding finding{c.kernel, c.shape, c.format, c.bytes, c.flops, {}, {}};
      std::vector<KernelRun> forms{c.prepare(native_).run};
      if (c.has_second && second_) forms.push_back(c.prepare(*second_).run);
      const std::vector<KernelTime> times = timer_.Time(std::move(forms));
      finding.time = times.front();
      if (times.size() > 1) finding.second = times.back();
      report_.findings.push_back(std::move(finding));
    } catch (const OpenClError& e) {
      report_.failed.push_back({Line(c), e.what()});
    }
  }

  void Judge(KernelFinding& f) const {
    if (f.bytes == 0 && f.flops == 0) return;
    const KernelLimits& limits = report_.limits;
    const std::pair<double, KernelLimit> bounds[] = {
        {f.bytes / limits.read_bytes_per_s(), KernelLimit::kRead},
        {f.flops / limits.matrix_flops_per_s, KernelLimit::kMatrix},
        {limits.launch_s, KernelLimit::kLaunch}};
    const auto& [seconds, limit] = *std::ranges::max_element(bounds);
    f.limit = limit;
    f.share = seconds / f.time.seconds;
  }

  const ClDevice& device_;
  const KernelBenchOptions& options_;
  ProgressSink* progress_;
  KernelEffort effort_;
  KernelTimer timer_;
  cl::Kernels native_;
  std::optional<cl::Kernels> second_;
  BenchMemory memory_;
  const double start_ = Now();
  std::string stage_;
  KernelReport report_;
};

}  // namespace

std::string_view Name(KernelLimit limit) {
  switch (limit) {
    case KernelLimit::kNone:
      return "-";
    case KernelLimit::kRead:
      return "read";
    case KernelLimit::kMatrix:
      return "matrix";
    case KernelLimit::kLaunch:
      return "launch";
  }
  return "-";
}

double KernelLimits::read_bytes_per_s() const {
  return std::max(read_bytes_per_s_before, read_bytes_per_s_after);
}

KernelReport BenchKernels(const ClDevice& device, const KernelBenchOptions& options,
                          ProgressSink* progress) {
  return KernelBench(device, options, progress).Run();
}

}  // namespace tandem
