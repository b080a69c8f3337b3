#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cl_kernels/kernels.h"
#include "memory/tuned_shapes.h"
#include "runtime/bench_kernels_time.h"
#include "runtime/progress.h"
#include "runtime/tune.h"
#include "runtime/tune_kernels_work.h"

namespace tandem {

struct KernelTuneOptions {
  std::vector<DType> formats;  // of weights
  double minutes = 5;
  bool quick = false;  // tiny products, for tests
};

struct KernelTrial {
  std::string change;  // "teams=4"
  Comparison pairs;    // of all its cases together: geometric means
  double worst = 1;    // of a case, median of its pairs
  std::size_t cases = 0;
  bool kept = false;
  std::string failure;  // does not run, or computes something else
};

struct KernelTuneResult {
  TunedShapes shapes;               // changes against the table; `when` is the caller's to say
  std::vector<std::string> before;  // what the device had at the start, in the same form
  TuneEnd end = TuneEnd::kNothingLeft;
  std::vector<KernelTrial> trials;
  Comparison total;  // start against end over all kinds of work; empty where nothing was kept
};

// Looks for faster shapes of a device's kernels: one tunable after the other, its values against
// the best so far, in pairs of measurements in alternation. A value must first give the results of
// the table's shapes. It is kept if its median gain is beyond noise (Comparison::Helps) and no case
// loses more than a tenth. In the end what was kept must win over the start as a whole, and pass
// the self-test (self_test.h), or the start is given back.
class KernelTuner {
 public:
  using Say = std::function<void(const std::string&)>;
  KernelTuner(const ClDevice& device, const KernelTuneOptions& options, Say say,
              ProgressSink* progress);
  ~KernelTuner();
  KernelTuner(const KernelTuner&) = delete;
  KernelTuner& operator=(const KernelTuner&) = delete;

  KernelTuneResult Run();

 private:
  bool Pass();  // whether it kept anything
  void Try(const ShapeAxis& axis, std::int64_t value);
  void Measure(cl::Kernels& base, cl::Kernels& candidate, const std::vector<KernelCase>& cases,
               KernelTrial& trial, bool may_stop);
  void CheckSame(cl::Kernels& candidate, const KernelCase& c);
  bool WinsAsAWhole(KernelTuneResult& result);
  bool PassesSelfTest();
  void Check() const;  // throws where the user wants to stop
  double SecondsLeft() const;

  const ClDevice& device_;
  const KernelTuneOptions& options_;
  Say say_;
  ProgressSink* progress_;
  KernelTimer timer_;
  ShapeCases cases_;
  cl::Kernels table_;  // what results are compared with
  std::shared_ptr<cl::Kernels> start_, best_;
  std::set<std::string> known_;  // tried
  std::vector<KernelTrial> trials_;
  double began_ = 0;
};

}  // namespace tandem
