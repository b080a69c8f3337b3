#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "placement/rates.h"
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
  double point_s() const { return quick_ ? 1e-4 : 1e-3; }

  // Seconds of run() after prepare(), which is not timed. Calls follow each other until the
  // fastest two agree: that is the undisturbed time, found soon on a quiet machine and still found
  // on a busy one.
  template <class Prepare, class Run>
  double Time(Prepare&& prepare, Run&& run) const {
    Fastest fastest;
    double sum = 0;
    for (int call = 0; call < kMostCalls; ++call) {
      Check();
      prepare();
      const double start = Now();
      run();
      const double seconds = Now() - start;
      sum += seconds;
      // The first call warms up, unless it is so long that it need not.
      if (call > 0 || seconds > kLongCall) fastest.See(seconds);
      if (Enough(fastest, sum)) break;
    }
    return fastest.Seconds();
  }

 private:
  static constexpr int kMostCalls = 200;
  static constexpr double kLongCall = 0.02;

  class Fastest {
   public:
    void See(double seconds) {
      second_ = std::min(second_, std::max(first_, seconds));
      first_ = std::min(first_, seconds);
      ++count_;
    }
    bool agree() const { return count_ > 1 && second_ < 1.03 * first_; }
    int count() const { return count_; }
    double Seconds() const { return count_ > 1 && agree() ? (first_ + second_) / 2 : first_; }

   private:
    double first_ = std::numeric_limits<double>::infinity();
    double second_ = std::numeric_limits<double>::infinity();
    int count_ = 0;
  };
  // `sum`: seconds of all calls of the point.
  bool Enough(const Fastest& fastest, double sum) const;

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
