#include "runtime/bench_kernels_time.h"

#include <algorithm>

#include "runtime/bench.h"
#include "runtime/clock.h"

namespace tandem {

double KernelTimer::Batch(const KernelRun& run, int calls) const {
  check_();
  device_.Finish();
  const double start = Now();
  run(calls);
  device_.Finish();
  return Now() - start;
}

void KernelTimer::FirstBatch(Form& form) const {
  constexpr int kMostCalls = 4096;
  Batch(form.run, 1);  // compiles
  double seconds = Batch(form.run, form.calls);
  while (seconds < effort_.batch_s && form.calls < kMostCalls) {
    const double wanted = 1.25 * effort_.batch_s / seconds * form.calls;
    form.calls = static_cast<int>(std::clamp(wanted, form.calls + 1.0, 16.0 * form.calls));
    seconds = Batch(form.run, form.calls);
  }
  form.seconds = {seconds / form.calls};
}

std::vector<std::vector<double>> KernelTimer::Batches(std::vector<KernelRun> runs) const {
  std::vector<Form> forms;
  bool is_long = false;
  for (KernelRun& run : runs) {
    Form& form = forms.emplace_back(Form{std::move(run)});
    FirstBatch(form);
    is_long = is_long || form.seconds.front() * form.calls > effort_.long_call_s;
  }
  const int count = is_long ? 2 : effort_.batches;
  for (int i = 1; i < count; ++i) {
    for (Form& form : forms) form.seconds.push_back(Batch(form.run, form.calls) / form.calls);
  }
  std::vector<std::vector<double>> batches;
  for (Form& form : forms) batches.push_back(std::move(form.seconds));
  return batches;
}

std::vector<KernelTime> KernelTimer::Time(std::vector<KernelRun> forms) const {
  std::vector<KernelTime> times;
  for (const std::vector<double>& batches : Batches(std::move(forms))) {
    const auto [least, most] = std::ranges::minmax(batches);
    const double median = Median(batches);
    times.push_back({median, (most - least) / median});
  }
  return times;
}

}  // namespace tandem
