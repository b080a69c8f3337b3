#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "memory/cl_device.h"
#include "runtime/doctor.h"
#include "runtime/interrupt.h"

namespace tandem {
namespace {

std::string OfDevice(const ClDeviceInfo& info, const std::string& family) {
  return fmt::format("device {}: {}", info.index, family);
}

// Tells what comes next: every part of the first round, in which programs are compiled, then each
// round.
class Stages {
 public:
  Stages(ProgressSink* progress, int device) : progress_(progress), device_(device) {}
  ~Stages() {
    if (begun_) progress_->End();
  }
  Stages(const Stages&) = delete;
  Stages& operator=(const Stages&) = delete;

  void operator()(int round, const std::string& what) {
    if (progress_ == nullptr) return;
    if (progress_->Cancelled()) ThrowInterrupted();
    progress_->Update(0);
    if (round > 1 && round == round_) return;
    round_ = round;
    if (begun_) progress_->End();
    begun_ = true;
    const std::string part = round == 1 ? what : fmt::format("round {}, other numbers", round);
    progress_->Begin(fmt::format("testing device {}: {}", device_, part), 0);
  }

 private:
  ProgressSink* progress_;
  int device_;
  int round_ = 0;
  bool begun_ = false;
};

// Failing memory shows now and then: other numbers again and again, but once at least.
std::vector<SelfTestRow> TestRounds(const ClDeviceInfo& info, const SelfTestScope& scope,
                                    Seconds time, ProgressSink* progress, int* rounds) {
  Stages stages(progress, info.index);
  stages(1, "opening it");
  const ClDevice device(info);
  cl::Kernels kernels(device, cl::DefaultCacheDir());
  const auto stage = [&](const std::string& what) { stages(*rounds, what); };
  const auto end = std::chrono::steady_clock::now() + time;
  std::vector<SelfTestRow> rows;
  do {
    const std::vector<SelfTestRow> more =
        RunSelfTest(kernels, scope, static_cast<unsigned>(++*rounds), stage);
    rows.insert(rows.end(), more.begin(), more.end());
  } while (std::chrono::steady_clock::now() < end &&
           std::ranges::all_of(rows, &SelfTestRow::passes));
  return rows;
}

Finding FindingOf(const ClDeviceInfo& info, const SelfTestRow& worst, std::size_t formats,
                  int rounds) {
  Finding f{OfDevice(info, worst.family)};
  f.found = fmt::format("{} format{}, {} round{}: largest error {:.2g} of {:.2g} ({}, {})", formats,
                        formats == 1 ? "" : "s", rounds, rounds == 1 ? "" : "s", worst.error,
                        worst.bound, worst.shape, worst.format);
  if (worst.passes()) return f;
  f.health = Health::kFail;
  f.code = ExitCode::kUnavailable;
  f.expected = fmt::format(
      "at most {:.2g}, as on the CPU (squared differences by squares): '{}' computes wrong numbers",
      worst.bound, info.name);
  f.fix =
      "another driver; without overclocking; another card; --device none runs on the CPU meanwhile";
  return f;
}

std::vector<Finding> TestDevice(const ClDeviceInfo& info, const SelfTestScope& scope, Seconds time,
                                ProgressSink* progress) {
  int rounds = 0;
  const std::vector<SelfTestRow> rows = TestRounds(info, scope, time, progress, &rounds);
  std::vector<Finding> findings;
  for (const SelfTestRow& worst : WorstOfFamilies(rows)) {
    std::set<std::string> formats;
    for (const SelfTestRow& row : rows) {
      if (row.family == worst.family) formats.insert(row.format);
    }
    findings.push_back(FindingOf(info, worst, formats.size(), rounds));
  }
  return findings;
}

}  // namespace

std::vector<Finding> CheckKernels(const SelfTestScope& scope, Seconds time,
                                  ProgressSink* progress) {
  std::vector<Finding> findings;
  for (const ClDeviceInfo& info : ProbeClDevices().devices) {
    try {
      std::ranges::move(TestDevice(info, scope, time, progress), std::back_inserter(findings));
    } catch (const Error& error) {
      if (progress != nullptr && progress->Cancelled()) throw;
      findings.push_back({OfDevice(info, "kernels"), Health::kFail, error.what(),
                          "that every kernel compiles and runs",
                          "another driver; --device none runs on the CPU meanwhile", error.code()});
    }
  }
  return findings;
}

}  // namespace tandem
