#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "placement/rates.h"
#include "runtime/bench.h"
#include "runtime/clock.h"
#include "runtime/progress.h"

namespace tandem {

// How long and how often operations are timed, and who is told about it.
class Meter {
 public:
  // `stages` is how many times Stage will be called; `progress` may be null.
  Meter(bool quick, int stages, ProgressSink* progress);
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  // What is measured from now on.
  void Stage(const std::string& what);
  // Throws the interruption error once the user wants to stop.
  void Check() const;
  bool quick() const { return quick_; }
  // How often a table is measured: the better of the passes counts, so that another program's
  // burst of work does not spoil a point.
  int passes() const { return quick_ ? 1 : 2; }
  // One point is timed for at least this long, unless a single call takes longer.
  double point_s() const { return quick_ ? 1e-4 : 2e-3; }

  // Seconds of run() after prepare(), which is not timed: the median of several calls, back to
  // back as in a step, after a first one that warms up. A call that takes long needs no other.
  template <class Prepare, class Run>
  double Time(Prepare&& prepare, Run&& run) const {
    const auto once = [&] {
      Check();
      prepare();
      const double start = Now();
      run();
      return Now() - start;
    };
    const double first = once();
    if (first >= kLongCall) return first;
    std::vector<double> seconds;
    double sum = 0;
    while (seconds.size() < least_calls() || (sum < point_s() && seconds.size() < kMostCalls)) {
      seconds.push_back(once());
      sum += seconds.back();
    }
    return Median(std::move(seconds));
  }

  // The best of several such times, for what is measured only once and takes microseconds.
  template <class Run>
  double Best(Run&& run) const {
    double best = Time([] {}, run);
    for (int round = 1; round < rounds(); ++round) best = std::min(best, Time([] {}, run));
    return best;
  }

 private:
  int rounds() const { return quick_ ? 1 : 7; }
  static constexpr std::size_t kMostCalls = 64;
  static constexpr double kLongCall = 0.008;
  std::size_t least_calls() const { return quick_ ? 1 : 3; }

  bool quick_;
  int stages_;
  int stage_ = 0;
  ProgressSink* progress_;  // non-owning
};

using Sizes = std::array<std::int64_t, 3>;

// A point of a grid that would take too long or too much memory is measured on smaller sizes;
// seconds are `factor` times those.
struct Sample {
  Sizes sizes{};
  double factor = 1;
};

// Measures every point: `seconds_of` gets what `sample_of` makes of a point, equal samples once.
RateTable FillTable(const std::array<std::vector<std::int64_t>, 3>& axes,
                    const std::function<Sample(const Sizes&)>& sample_of,
                    const std::function<double(const Sizes&)>& seconds_of, const Meter& meter);

// Bytes that are ordinary numbers (0.00004 to 2) in every weight format, and no two lines alike.
std::vector<std::byte> WeightBytes(std::size_t bytes);

}  // namespace tandem
