#pragma once

#include <functional>
#include <vector>

#include "memory/cl_device.h"
#include "runtime/bench_kernels.h"
#include "runtime/bench_kernels_cases.h"

namespace tandem {

// How long and how often.
struct KernelEffort {
  double batch_s = 2e-3;
  int batches = 5;
  double long_call_s = 0.1;  // one such call is a batch, and two of them are enough
  double budget_s = 0;       // of everything; 0: no end
};

// Times kernels by batches of calls back to back between two waits for the device.
class KernelTimer {
 public:
  // `check` is called before each batch, and throws to end the work.
  KernelTimer(const ClDevice& device, const KernelEffort& effort, std::function<void()> check)
      : device_(device), effort_(effort), check_(std::move(check)) {}

  // Batches of each form, which take turns, so that a device that slows down slows all.
  std::vector<std::vector<double>> Batches(std::vector<KernelRun> forms) const;
  // What they say of each form.
  std::vector<KernelTime> Time(std::vector<KernelRun> forms) const;

 private:
  // Calls of one form that fill a batch.
  struct Form {
    KernelRun run;
    int calls = 1;
    std::vector<double> seconds = {};  // of a call, batch for batch
  };
  double Batch(const KernelRun& run, int calls) const;
  void FirstBatch(Form& form) const;

  const ClDevice& device_;
  KernelEffort effort_;
  std::function<void()> check_;
};

}  // namespace tandem
